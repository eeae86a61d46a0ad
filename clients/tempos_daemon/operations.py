"""The operations of an HTTP API: each says once what it takes, which is both checked and described.

An operation is a function whose arguments come from the address, the query and the body, and whose answer is
a JSON value or a response. What it answers is described by models that are read only when the description is
made: nothing of them is needed to serve. Of what does not come as described every fault is told.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tempos import ConfigError
from tempos_daemon.problems import described, problem

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_F = TypeVar("_F", bound=Callable[..., Awaitable[Any]])
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
#: So much of a text is a number.
_DIGITS = 30


class Wrong(Exception):
    """A value is not what an operation takes; the words say what it must be."""


class Argument(Protocol):
    """What an argument may be. ``default``: where it does not come."""

    @property
    def description(self) -> str: ...

    @property
    def default(self) -> Any: ...

    def read(self, text: str) -> Any:
        """Its value, from an address or a query; raises :class:`Wrong`."""
        ...

    def take(self, value: Any) -> Any:
        """Its value, from a JSON body; raises :class:`Wrong`."""
        ...

    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """A text of so many characters."""

    description: str = ""
    shortest: int | None = None
    longest: int | None = None
    pattern: str | None = None
    example: str | None = None
    default: Any = None

    def read(self, text: str) -> str:
        if self.shortest is not None and len(text) < self.shortest:
            raise Wrong(f"must have at least {self.shortest} characters")
        if self.longest is not None and len(text) > self.longest:
            raise Wrong(f"must have at most {self.longest} characters")
        if self.pattern is not None and re.search(self.pattern, text) is None:
            raise Wrong(f"must be as {self.pattern}")
        return text

    def take(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Wrong("must be a text")
        return self.read(value)

    def schema(self) -> dict[str, Any]:
        told = {"minLength": self.shortest, "maxLength": self.longest, "pattern": self.pattern,
                "examples": [self.example] if self.example else None}  # fmt: skip
        return {"type": "string", **{key: value for key, value in told.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds. ``whole``: an integer."""

    description: str = ""
    least: float = 0
    most: float | None = None
    whole: bool = False
    default: Any = None

    def read(self, text: str) -> float:
        try:
            if len(text) > _DIGITS or "_" in text:
                raise ValueError
            value = int(text) if self.whole else float(text)
        except ValueError:
            raise Wrong(f"must be {'an integer' if self.whole else 'a number'}") from None
        return self.take(value)

    def take(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            raise Wrong(f"must be {'an integer' if self.whole else 'a number'}")
        if not value >= self.least:
            raise Wrong(f"must be at least {self.least:g}")
        if self.most is not None and not value <= self.most:
            raise Wrong(f"must be at most {self.most:g}")
        return value

    def schema(self) -> dict[str, Any]:
        bounds = {"minimum": self.least} | ({} if self.most is None else {"maximum": self.most})
        return {"type": "integer" if self.whole else "number", **bounds}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these words."""

    words: tuple[str, ...]
    description: str = ""
    default: Any = None

    def read(self, text: str) -> str:
        if text not in self.words:
            raise Wrong(f"must be one of {', '.join(self.words)}")
        return text

    def take(self, value: Any) -> str:
        return self.read(value if isinstance(value, str) else "")

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Truth:
    """True or false."""

    description: str = ""
    default: Any = False

    def read(self, text: str) -> bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise Wrong("must be true or false")
        return text.lower() in ("true", "1", "yes", "on")

    def take(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise Wrong("must be true or false")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object. ``fields``: those that there may be; None: whatever its operation judges.

    ``told``: the fields that must come. ``whole``: it must come itself. ``schema``: of what its operation
    judges.
    """

    fields: Mapping[str, Argument] | None = None
    told: Sequence[str] = ()
    whole: bool = True
    schema: Mapping[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """The same as JSON schema."""
        if self.fields is None:
            return dict(self.schema) or {"type": "object"}
        return {
            "type": "object",
            "properties": {name: _schema(each) for name, each in self.fields.items()},
            "required": list(self.told),
            "additionalProperties": False,
        }

    def read(self, value: Any, faults: list[str]) -> dict[str, Any]:
        """The arguments in it; what is wrong with it goes to ``faults``."""
        if not isinstance(value, dict):
            faults.append("body: must be a JSON object")
            return {}
        if self.fields is None:
            return {"body": value}
        faults += [f"body.{name}: is missing" for name in self.told if name not in value]
        faults += [f"body.{name}: is not known" for name in value if name not in self.fields]
        got = self._defaults()
        for name in value.keys() & self.fields.keys():
            argument = self.fields[name]
            if value[name] is None and argument.default is None and name not in self.told:
                continue
            try:
                got[name] = argument.take(value[name])
            except Wrong as wrong:
                faults.append(f"body.{name}: {wrong}")
        return got

    def absent(self, faults: list[str]) -> dict[str, Any]:
        """The arguments where none came."""
        if self.whole:
            faults.append("body: is missing")
        return self._defaults()

    def _defaults(self) -> dict[str, Any]:
        return {name: each.default for name, each in (self.fields or {}).items()}


@dataclass(frozen=True, slots=True)
class Operation:
    """``answers``: the name of the model of what it gives, ``[Name]`` for a list of these; empty: any object.

    ``media_type``: of another answer than JSON. ``codes``: of the problems that it may be answered with.
    """

    method: str
    path: str
    summary: str
    function: Callable[..., Awaitable[Any]]
    answers: str
    codes: tuple[int, ...]
    arguments: Mapping[str, Argument]
    body: Body | None
    status: int
    media_type: str
    also: Mapping[int, str]

    @property
    def places(self) -> Sequence[str]:
        """The arguments that stand in the address."""
        return _PARAMETER.findall(self.path)

    async def answer(self, request: Request) -> Response:
        """What it says to a request."""
        faults: list[str] = []
        got: dict[str, Any] = {}
        for name, argument in self.arguments.items():
            place, values = ("path", request.path_params) if name in self.places else (
                "query", request.query_params)  # fmt: skip
            try:
                got[name] = argument.read(values[name]) if name in values else argument.default
            except Wrong as wrong:
                faults.append(f"{place}.{name}: {wrong}")
        if self.body is not None:
            got |= await self._body(request, self.body, faults)
        if faults:
            return problem(
                422, f"the request is not as the OpenAPI document says: {'; '.join(faults)}", faults
            )
        answer = await self.function(**got)
        return answer if isinstance(answer, Response) else JSONResponse(answer, self.status)

    async def _body(self, request: Request, body: Body, faults: list[str]) -> dict[str, Any]:
        sent = await request.body()
        if not sent:
            return body.absent(faults)
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            faults.append("body: must be application/json")
            return {}
        try:
            return body.read(json.loads(sent), faults)
        except (ValueError, RecursionError):
            faults.append("body: is no JSON")
            return {}

    def document(self) -> dict[str, Any]:
        """The same for OpenAPI."""
        parameters = [
            {"name": name, "in": "path" if name in self.places else "query", "required": name in self.places,
             "description": each.description, "schema": _schema(each, without="description")}
            for name, each in self.arguments.items()
        ]  # fmt: skip
        responses: dict[str, Any] = {
            str(self.status): _answer("Successful Response", self.answers, self.media_type)
        }
        responses |= {str(code): _answer("not yet", name) for code, name in self.also.items()}
        responses |= {str(code): each for code, each in described(*self.codes).items()}
        told: dict[str, Any] = {"summary": self.summary, "operationId": self.function.__name__}
        if parameters:
            told["parameters"] = parameters
        if self.body is not None:
            content = {"application/json": {"schema": self.body.described()}}
            told["requestBody"] = {"required": self.body.whole, "content": content}
        return {**told, "responses": responses}


class Operations:
    """Those of an application, in the order in which an address is looked for among them."""

    def __init__(self) -> None:
        self.all: list[Operation] = []
        #: Answered as well, and described nowhere.
        self.beside: list[Operation] = []

    def add(
        self,
        method: str,
        path: str,
        summary: str,
        answers: str = "",
        codes: tuple[int, ...] = (),
        *,
        body: Body | None = None,
        status: int = 200,
        media_type: str = "application/json",
        also: Mapping[int, str] | None = None,
        shown: bool = True,
        **arguments: Argument,
    ) -> Callable[[_F], _F]:
        """Mark a function as what answers ``method`` at ``path``."""

        def mark(function: _F) -> _F:
            made = Operation(
                method, path, summary, function, answers, codes, arguments, body, status, media_type,
                also or {},
            )  # fmt: skip
            (self.all if shown else self.beside).append(made)
            return function

        return mark

    def application(self, handlers: Mapping[type[Exception], Callable[..., Any]]) -> Starlette:
        """What serves them. ``handlers`` make answers of errors."""
        routes = [Route(each.path, each.answer, methods=[each.method]) for each in (*self.all, *self.beside)]
        return Starlette(
            routes=routes,
            exception_handlers={
                HTTPException: on_http, ConfigError: on_config, ClientDisconnect: on_disconnect, **handlers
            },
        )  # fmt: skip

    def document(self, title: str, version: str, schemas: Mapping[str, Any]) -> dict[str, Any]:
        """The OpenAPI document of them, with the ``schemas`` of all that they answer."""
        paths: dict[str, Any] = {}
        for each in self.all:
            paths.setdefault(_PARAMETER.sub(r"{\1}", each.path), {})[each.method.lower()] = each.document()
        return {
            "openapi": "3.1.0",
            "info": {"title": title, "version": version},
            "paths": paths,
            "components": {
                "schemas": dict(schemas),
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"token": []}, {}],
        }


def _schema(argument: Argument, without: str = "") -> dict[str, Any]:
    told = argument.schema()
    if argument.default is not None:
        told["default"] = argument.default
    told["description"] = argument.description
    return {key: value for key, value in told.items() if key != without and value != ""}


def _answer(description: str, name: str, media_type: str = "application/json") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    if name:
        schema = {"$ref": f"#/components/schemas/{name.strip('[]')}"}
        schema = {"type": "array", "items": schema} if name.startswith("[") else schema
    if media_type != "application/json":
        schema = {"type": "string"}
    return {"description": description, "content": {media_type: {"schema": schema}}}


class Streamed(StreamingResponse):
    """An answer in pieces, made while it is sent; ends with its last one, or when who asked goes away.

    Starlette's own waits for both in a task group of anyio, whose parts are read when the first one is made:
    40 ms for which an event loop does nothing else, and memory that nobody needs otherwise.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self.stream_response(send))
        gone = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not sending.done():
                sending.cancel()
            await asyncio.wait((sending, gone))
        if not sending.cancelled():
            sending.result()
        if self.background is not None:
            await self.background()


async def on_http(request: Request, error: Exception) -> JSONResponse:
    """What the router says, as a problem."""
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), headers=error.headers)


async def on_config(request: Request, error: Exception) -> JSONResponse:
    """A configuration that was not applied, and why."""
    assert isinstance(error, ConfigError)
    return problem(409, f"the configuration was not applied: {'; '.join(error.problems)}", error.problems)


async def on_disconnect(request: Request, error: Exception) -> JSONResponse:
    """Nobody reads it; it is the client's doing, and no failure of ours."""
    return problem(400, "the request was broken off")
