"""The Controller's engine over fakes of its parts: whole or not at all, whoever refuses, is away or dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.platforms import Broker, Deployed

from tempos import ConfigError, Unavailable
from tempos_controller.api import application
from tempos_controller.config.layout import FUNCTION as FUNCTION_KEYS
from tempos_controller.config.layout import WORKFLOW as WORKFLOW_KEYS
from tempos_controller.config.load import Loaded, read
from tempos_controller.documents import Documents
from tempos_controller.force import engine as engine_module
from tempos_controller.force.engine import Engine, NotDone
from tempos_controller.force.items import Places
from tempos_controller.force.store import Desired, Store

FUNCTION = {"name": "f", "mode": "python", "entry": "m:f"}
TRIGGER = {"name": "t", "kind": "udp"}
WORKFLOW = {
    "name": "w",
    "topic": "in",
    "class": "SQ",
    "trigger": "t",
    "step": [{"function": "f", "result": "out"}],
}
ALL = {"function": {"f": FUNCTION}, "trigger": {"t": TRIGGER}, "workflow": {"w": WORKFLOW}}


class World:
    """A broker, an invoker, a trigger, and the folder of a Controller."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.broker = Broker(self.asked)
        self.invoker = Deployed("invoker", self.asked)
        self.trigger = Deployed("trigger", self.asked)

    @property
    def parts(self) -> tuple[Broker, Deployed, Deployed]:
        return self.broker, self.invoker, self.trigger

    @asynccontextmanager
    async def controller(self) -> AsyncIterator[Engine]:
        """One life of a Controller."""
        store = Store(self.folder)
        try:
            desired = store.read() or Desired()
            if not desired.items:
                items = {"node": {"n": world_node(self)}}
                desired = replace(desired, items=items, origins={"node/n": "file"})
            places = Places({"broker": {"address": "10.0.0.9", "api": f"127.0.0.1:{self.broker.port}"}}, {})
            engine = Engine(store, places, read(places.documents(desired), "t"), desired)
            engine.start()
            try:
                await engine.settle(5)
                yield engine
            finally:
                await engine.close()
                await engine.fleet.leave()
        finally:
            store.close()

    def in_force(self) -> tuple[Any, Any, Any]:
        steps = [each["topic"] for each in (self.invoker.document or {}).get("step", ())]
        endpoints = [each["topic"] for each in (self.trigger.document or {}).get("endpoint", ())]
        return dict(self.broker.topics), steps, endpoints


def world_node(world: World) -> dict[str, Any]:
    invoker, trigger = (f"127.0.0.1:{part.port}" for part in (world.invoker, world.trigger))
    return {"name": "n", "start": False, "invoker": invoker, "trigger": trigger}


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(engine_module, "THERE", 1.0)
    monkeypatch.setattr(engine_module, "BACK", 1.0)
    world = World(tmp_path / "state")
    for part in world.parts:
        await part.start()
    yield world
    for part in world.parts:
        await part.stop()


async def test_a_workflow_comes_in_the_order_that_loses_nothing_and_goes_backwards(world: World) -> None:
    async with world.controller() as engine:
        world.asked.clear()
        await engine.apply(ALL, "all")
        assert world.asked == ["make in", "make out", "invoker f", "trigger t"]
        assert world.broker.topics["in"]["class"] == "SQ"
        assert engine.ready
        world.asked.clear()
        assert (await engine.apply(ALL, "again")).changes == []
        assert world.asked == []
        await engine.apply({"workflow": {"w": None}}, "gone")
        assert world.asked == ["trigger nothing", "invoker nothing", "remove in", "remove out"]


async def test_a_chain_goes_step_by_step_each_when_the_one_before_has_drained(world: World) -> None:
    chain = {**WORKFLOW, "step": [{"function": "f"}, {"function": "f", "name": "g"}]}
    async with world.controller() as engine:
        await engine.apply({**ALL, "workflow": {"w": chain}}, "all")
        world.asked.clear()
        world.invoker.leaving = [2, 1]
        await engine.apply({"workflow": {"w": None}}, "gone")
        assert world.asked == [
            "trigger nothing", "invoker g", "invoker leaving 2", "invoker leaving 1", "invoker nothing",
            "remove in", "remove w/f",
        ]  # fmt: skip


@pytest.mark.parametrize("who", ["broker", "invoker", "trigger"])
async def test_where_one_refuses_nothing_has_changed(world: World, who: str) -> None:
    async with world.controller() as engine:
        await engine.apply(ALL, "all")
        before, wanted = world.in_force(), engine.desired
        part = getattr(world, who)
        part.refuse = lambda document: "I will not" if "new" in str(document) else None
        changed = {**WORKFLOW, "topic": "new", "step": [{"function": "f", "result": "newer"}]}
        with pytest.raises(NotDone, match=r"nothing has changed: .*I will not"):
            await engine.apply({"workflow": {"w": changed}}, "w")
        assert world.in_force() == before
        assert (engine.desired, engine.store.read()) == (wanted, wanted)
        part.refuse = lambda document: None
        await engine.apply({"workflow": {"w": changed}}, "w")
        assert world.in_force()[1:] == (["new"], ["new"])


async def test_what_cannot_be_taken_back_is_told_and_put_right_once_it_can(world: World) -> None:
    async with world.controller() as engine:
        await engine.apply(ALL, "all")
        before = world.in_force()
        engine.keep()

        def fall() -> None:
            world.invoker.away = True

        world.invoker.then = fall
        changed = {**WORKFLOW, "step": [{"function": "f", "result": "new"}]}
        with pytest.raises(
            NotDone, match=r"not all of it could be taken back yet.*invoker n does not answer"
        ) as told:
            await engine.apply({"workflow": {"w": changed}}, "w")
        assert told.value.left
        assert not engine.ready
        assert "invoker n" in engine.amiss
        world.invoker.then, world.invoker.away = lambda: None, False
        await until(lambda: engine.ready)
        assert world.in_force() == before


async def test_a_part_that_does_not_answer_is_amiss_from_the_refused_change_on(world: World) -> None:
    async with world.controller() as engine:
        await engine.apply(ALL, "all")
        engine.keep()
        world.broker.away = True
        with pytest.raises(NotDone, match="broker does not answer"):
            await engine.apply({"workflow": {"w": {**WORKFLOW, "topic": "new"}}}, "w")
        assert not engine.ready
        assert engine.amiss["broker"].startswith("does not answer")
        world.broker.away = False
        await until(lambda: engine.ready)


async def test_a_node_that_is_gone_for_good_can_be_taken_out(world: World) -> None:
    far = Deployed("far", [])
    await far.start()
    try:
        there = {"name": "m", "start": False, "invoker": f"127.0.0.1:{far.port}", "trigger": "off"}
        workflow = {**WORKFLOW, "step": [{**WORKFLOW["step"][0], "node": "m"}]}  # type: ignore[dict-item]
        async with world.controller() as engine:
            await engine.apply({**ALL, "node": {"m": there}, "workflow": {"w": workflow}}, "all")
            far.away = True
            # What still names it needs it.
            with pytest.raises(NotDone, match="invoker m does not answer"):
                await engine.apply({"workflow": {"w": {**workflow, "topic": "new"}}}, "w")
            without = {"node": {"m": None}, "workflow": {"w": WORKFLOW}}
            (told,) = (each for each in await engine.plan(without) if "invoker m" in each)
            assert "left as it is" in told
            assert told in (await engine.apply(without, "without")).changes
            assert (engine.ready, set(engine.fleet.invokers)) == (True, {"n"})
            assert world.in_force()[1:] == (["in"], ["in"])
            # One that answers is told to do nothing more.
            far.away = False
            await engine.apply({"node": {"m": there}, "workflow": {"w": workflow}}, "again")
            await engine.apply(without, "without")
            assert far.document is not None
            assert not far.document["step"]
    finally:
        await far.stop()


async def test_a_part_that_dies_in_the_middle_and_is_back_soon_does_what_was_asked(world: World) -> None:
    async with world.controller() as engine:

        def blink() -> None:
            world.invoker.then = lambda: None
            world.invoker.away = True
            asyncio.get_running_loop().call_later(0.2, lambda: setattr(world.invoker, "away", False))

        world.invoker.then = blink
        await engine.apply(ALL, "all")
        assert world.in_force()[1:] == (["in"], ["in"])


async def test_a_controller_that_dies_in_the_middle_takes_back_what_nobody_was_told_of(world: World) -> None:
    async with world.controller() as engine:
        await engine.apply(ALL, "all")
        before = world.in_force()
        changed = {**WORKFLOW, "topic": "new"}

        written: list[Desired] = []
        write = engine.store.write

        def killed(desired: Desired) -> None:
            write(desired)
            written.append(desired)
            if len(written) > 1:
                raise AssertionError("dead by now")

        engine.store.write = killed  # type: ignore[method-assign]
        engine._take_back = dead  # type: ignore[method-assign]
        world.trigger.refuse = lambda document: "dead" if "new" in str(document) else None
        with pytest.raises(AssertionError):
            await engine.apply({"workflow": {"w": changed}}, "w")
        assert written[0].changing
        assert "new" in world.broker.topics
    world.trigger.refuse = lambda document: None
    async with world.controller() as engine:
        assert world.in_force() == before
        stored = engine.store.read()
        assert stored is not None
        assert (stored.changing, sorted(stored.made)) == ("", ["in", "out"])


async def dead(*_: object) -> list[str]:
    raise AssertionError("dead")


async def test_whoever_forgets_or_is_told_otherwise_is_put_right(world: World) -> None:
    async with world.controller() as engine:
        await engine.apply(ALL, "all")
        before = world.in_force()
        world.broker.topics.clear()
        world.invoker.document = None
        assert world.trigger.document is not None
        world.trigger.document = {"revision": "?", "broker": {}, "endpoint": []}
        await engine.settle(1)
        assert world.in_force() == before


async def test_topics_of_others_are_used_but_never_changed_or_removed(world: World) -> None:
    world.broker.topics["in"] = {"name": "in", "class": "BQ", "priority": 0}
    world.broker.by_file.add("in")
    async with world.controller() as engine:
        with pytest.raises(
            NotDone, match="topic in is there already, made by the broker's file, with class 'BQ'"
        ):
            await engine.apply(ALL, "all")
        assert world.in_force()[1:] == ([], [])
        world.broker.topics["in"]["class"] = "SQ"
        await engine.apply(ALL, "all")
        await engine.apply({"workflow": {"w": None}}, "gone")
        assert world.broker.topics.keys() == {"in"}


async def test_code_is_uploaded_where_it_is_needed_and_needed_before_it_is_named(world: World) -> None:
    async with world.controller() as engine:
        digest = "0" * 64
        function = {**FUNCTION, "code": {"sha256": digest, "name": "f.py"}}
        with pytest.raises(ConfigError, match=r"its code 000000000000... is not here"):
            await engine.apply({**ALL, "function": {"f": function}}, "all")
        digest = engine.store.add_code(b"def f(body): ...")
        function = {**FUNCTION, "code": {"sha256": digest, "name": "f.py"}}
        await engine.apply({**ALL, "function": {"f": function}}, "all")
        assert world.invoker.code == {digest: b"def f(body): ..."}
        # A daemon that has lost its folder is given it again.
        world.invoker.code.clear()
        world.invoker.document = None
        await engine.settle(1)
        assert world.invoker.code.keys() == {digest}


async def test_a_file_replaces_what_came_with_it_and_leaves_what_orders_made(world: World) -> None:
    def loaded(*workflows: dict[str, Any]) -> Loaded:
        node = world_node(world)
        documents = {
            "node": [node],
            "function": [FUNCTION],
            "trigger": [TRIGGER],
            "workflow": list(workflows),
        }
        return Loaded(read(documents, "f"), documents, {}, {})

    other = {"name": "v", "topic": "other", "step": [{"function": "f"}]}
    async with world.controller() as engine:
        places = engine._places
        await engine.apply_file(loaded(WORKFLOW), places, "1")
        await engine.apply({"workflow": {"v": other}}, "v")
        assert engine.desired.origins["workflow/v"] == "run-time"
        # What plan tells is what the file would do.
        assert "- trigger n: udp t -> in" in await engine.plan({"function": {"f": FUNCTION}}, whole=True)
        await engine.apply_file(loaded({**WORKFLOW, "name": "x"}), places, "2")
        assert list(engine.desired.items["workflow"]) == ["x", "v"]
        await engine.apply_file(loaded({**other, "class": "SQ"}), places, "3")
        assert engine.desired.origins["workflow/v"] == "file"
        assert world.broker.topics.keys() == {"other"}
        assert world.broker.topics["other"]["class"] == "SQ"


async def test_changes_come_one_after_the_other(world: World) -> None:
    async with world.controller() as engine:
        await engine.apply(ALL, "all")
        world.asked.clear()
        versions = [{**FUNCTION, "timeout": float(number)} for number in range(1, 6)]
        await asyncio.gather(*(engine.apply({"function": {"f": each}}, "f") for each in versions))
        assert world.asked == ["invoker f"] * 5
        assert world.invoker.document is not None
        assert world.invoker.document["function"][0]["timeout"] == 5.0


async def test_a_second_controller_does_not_get_the_folder(world: World) -> None:
    async with world.controller():
        with pytest.raises(Unavailable, match="another Controller has the state folder"):
            Store(world.folder)
    Store(world.folder).close()


async def until(condition: Any, limit: float = 20.0) -> None:
    deadline = asyncio.get_running_loop().time() + limit
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_the_api_is_described_by_the_tables_of_the_file(world: World) -> None:
    async with world.controller() as engine:
        app = application(engine, Documents(engine, "t"), "0123456789abcdef", Counter())
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(transport=transport, base_url="http://c")
        async with client:
            assert (await client.get("/v1/status")).status_code == 401
            client.headers["Authorization"] = "Bearer 0123456789abcdef"
            # As `curl -d` sends it.
            sent = {"Content-Type": "application/x-www-form-urlencoded"}
            refused = await client.post("/v1/apply", content=b'{"workflow": []}', headers=sent)
            assert refused.status_code == 422
            assert "urlencoded; allowed: application/json" in refused.json()["detail"]
            described = (await client.get("/openapi.json")).json()["paths"]
            for kind, keys in {"function": FUNCTION_KEYS, "workflow": WORKFLOW_KEYS}.items():
                body = described[f"/v1/{kind}s/{{name}}"]["put"]["requestBody"]
                assert body["content"]["application/json"]["schema"]["properties"].keys() == keys.keys()
            # Whatever is asked for, the answer is one of those that are described.
            wrong = await client.put("/v1/workflows/w", json={"topic": "t", "step": [{"function": "g"}]})
            assert wrong.status_code == 422
            assert "which no [[function]] is called" in wrong.json()["problems"][0]
            assert (await client.put(f"/v1/code/{'0' * 64}", content=b"x")).status_code == 409
            assert (await client.delete("/v1/triggers/t")).status_code == 404
            both = {"workflow": [{"name": "w"}], "remove": {"workflow": ["w"], "topic": ["t"]}}
            refused = (await client.post("/v1/apply", json=both)).json()["problems"]
            assert [each.split(" ")[0] for each in refused] == ["remove.topic", "remove.workflow"]
