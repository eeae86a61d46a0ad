"""Parts of a platform as a Controller sees them: small fakes that keep to the same HTTP, in this process.

They note what was asked of them in one common list, so that a test can tell the order; ``refuse`` makes one
say no to what matches, ``away`` makes it break connections off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from tempos_daemon.http_server import HttpServer
from tempos_daemon.web import new_app


class Part:
    """A daemon with an API. ``asked``: what changed anything, in order, of all parts that share the list."""

    def __init__(self, name: str, asked: list[str]) -> None:
        self.name = name
        self.asked = asked
        self.app: FastAPI = new_app(name, lambda: True, "always")
        self.refuse: Callable[[Any], str | None] = lambda document: None
        self.away = False
        self._server: HttpServer | None = None
        self.port = 0

        @self.app.middleware("http")
        async def break_off(request: Request, go_on: Any) -> Response:
            if self.away:
                raise ConnectionAbortedError
            return await go_on(request)  # type: ignore[no-any-return]

    async def start(self) -> None:
        """Serve, at the port of the last time if there was one."""
        self._server = HttpServer(self.app, "127.0.0.1", self.port, Counter())
        await self._server.start()
        self.port = self._server.port

    async def stop(self) -> None:
        """Serve no longer; what is in force stays."""
        if self._server is not None:
            await self._server.close()
            self._server = None

    def judge(self, document: Any) -> None:
        """Say no if it is to."""
        why = self.refuse(document)
        if why is not None:
            raise HTTPException(409, why)


class Broker(Part):
    """Topics, made by this API unless ``by_file``."""

    def __init__(self, asked: list[str]) -> None:
        super().__init__("broker", asked)
        self.topics: dict[str, dict[str, Any]] = {}
        self.by_file: set[str] = set()

        @self.app.get("/v1/options")
        async def options() -> list[Any]:
            return [
                {"origin": "file" if name in self.by_file else "run-time", "options": each}
                for name, each in self.topics.items()
            ]

        @self.app.get("/v1/paths")
        async def paths() -> list[Any]:
            return [{"topic": name, "path": "slow", "reason": "no fast path"} for name in self.topics]

        @self.app.post("/v1/topics", status_code=201)
        async def make(body: dict[str, Any]) -> dict[str, Any]:
            self.judge(body)
            if body["name"] in self.topics:
                raise HTTPException(409, "is there already")
            self.asked.append(f"make {body['name']}")
            self.topics[body["name"]] = {"class": "BQ", "priority": 0, "rate": 0, **body}
            return body

        @self.app.patch("/v1/topics/{name:path}")
        async def change(name: str, body: dict[str, Any]) -> dict[str, Any]:
            self.judge(body)
            self.asked.append(f"change {name} {body}")
            defaults = {"class": "BQ", "priority": 0, "rate": 0}
            self.topics[name] |= {
                key: defaults[key] if value is None else value for key, value in body.items()
            }
            return body

        @self.app.delete("/v1/topics/{name:path}")
        async def remove(name: str, drain: bool = False) -> dict[str, Any]:
            assert drain
            self.judge(name)
            if self.topics.pop(name, None) is None:
                raise HTTPException(404, "no such topic")
            self.asked.append(f"remove {name}")
            return {}


class Deployed(Part):
    """An invoker or a trigger."""

    def __init__(self, name: str, asked: list[str]) -> None:
        super().__init__(name, asked)
        self.document: dict[str, Any] | None = None
        self.code: dict[str, bytes] = {}
        #: What the status says of steps that leave, one look after the other; then none does.
        self.leaving: list[int] = []
        #: Called once the next document has come, before it is answered.
        self.then: Callable[[], None] = lambda: None

        @self.app.get("/v1/status")
        async def status() -> dict[str, Any]:
            leaving = self.leaving.pop(0) if self.leaving else 0
            self.asked += [f"{name} leaving {leaving}"] if leaving else []
            return {"steps": [], "endpoints": [], "leaving": leaving}

        @self.app.get("/v1/deployment")
        async def get() -> dict[str, Any]:
            if self.document is None:
                raise HTTPException(404, "none yet")
            return self.document

        @self.app.put("/v1/deployment")
        async def put(body: dict[str, Any]) -> dict[str, Any]:
            self.judge(body)
            for function in body.get("function", ()):
                code = function.get("code")
                if code and code["sha256"] not in self.code:
                    raise HTTPException(409, f"code {code['sha256']} was not uploaded")
            self.document = body
            self.asked.append(f"{name} {' '.join(_names(body)) or 'nothing'}")
            self.then()
            if self.away:
                raise ConnectionAbortedError
            return {"revision": body["revision"]}

        @self.app.put("/v1/code/{sha256}")
        async def upload(sha256: str, request: Request) -> dict[str, Any]:
            self.code[sha256] = await request.body()
            self.asked.append(f"{name} code {sha256[:4]}")
            return {}


def _names(body: dict[str, Any]) -> list[str]:
    return [each["name"] for each in (*body.get("step", ()), *body.get("endpoint", ()))]
