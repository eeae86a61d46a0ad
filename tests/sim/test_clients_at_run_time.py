"""Clients are made, changed and removed while the broker runs: at once, over kills, beside a file."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.asking import answer_to, signed
from support.brokers import TOKEN

from tempos import ConfigError, ControlRefused, Key, Publisher, Subscriber
from tempos.auth import read_key_file
from tempos.cli import main
from tempos.control import Code
from tempos_broker.broker import Broker
from tempos_broker.clients.former import DEMANDED, MADE
from tempos_broker.config.clients import BadClient
from tempos_broker.config.model import BrokerConfig, ClientConfig, ControlConfig, TopicConfig
from tempos_broker.lives.store import Store, Thing, things_in
from tempos_broker.membership import Refused
from tempos_broker.paths import NoFastPath

from .test_broker import free_ports, topic, until
from .test_changes_under_traffic import EVENTS, PLAIN
from .test_restart import Machine

FIRST, SECOND, THIRD = ("11" * 16, "22" * 16, "33" * 16)


def configuration(**control: Any) -> BrokerConfig:
    data, port = free_ports(2)
    return BrokerConfig(
        (TopicConfig(EVENTS), TopicConfig(PLAIN)), ("127.0.0.1",), data, port, api_port=0,
        control=ControlConfig(**control),
    )  # fmt: skip


@asynccontextmanager
async def broker(folder: Path, config: BrokerConfig) -> AsyncIterator[Broker]:
    store = Store.open(folder / "state")
    async with Broker(config, NoFastPath("off"), store=store) as running:
        yield running


def key(client: str, secret: str) -> Key:
    return Key(client, bytes.fromhex(secret))


def publisher(config: BrokerConfig, auth: Key | None = None) -> Publisher:
    return Publisher("127.0.0.1", data_port=config.data_port, control_port=config.control_port, auth=auth)


async def refused(config: BrokerConfig, auth: Key | None, words: str, name: str = "events") -> None:
    with pytest.raises(ControlRefused, match=words):
        async with publisher(config, auth) as pub:
            await pub.publish(name, b"x")


async def is_known(config: BrokerConfig, auth: Key) -> bool:
    """Whether the broker takes what is signed with this key."""
    came = await asyncio.to_thread(answer_to, auth, signed(auth), ("127.0.0.1", config.control_port))
    assert came in ("taken", Code.NOT_ALLOWED)
    return came == "taken"


async def taken(config: BrokerConfig, auth: Key | None, name: str = "events") -> None:
    async with publisher(config, auth) as pub:
        await pub.publish(name, b"x")


async def test_a_key_holds_from_the_order_on_and_ends_with_the_next_one(tmp_path: Path) -> None:
    config = configuration(lease=2.0, heartbeat=0.1)
    async with broker(tmp_path, config) as running:
        await taken(config, None)
        told = await running.add_client({"id": "a", "key": FIRST, "publish": ["events"]})
        assert told == {
            "id": "a", "origin": "run-time", "publish": ["events"], "subscribe": [], "durable": True,
        }  # fmt: skip
        assert running.documents.clients() == {"signed": True, "clients": [told]}
        await refused(config, None, "must be signed")
        await taken(config, key("a", FIRST))
        await refused(config, key("a", FIRST), "no right to .*of client a: tempos ctl client set", "plain")
        await running.set_client("a", {"publish": ["*"], "subscribe": ["#"]})
        await taken(config, key("a", FIRST), "plain")
        # Another key: the one before is worth nothing from the answer on.
        await running.set_client("a", {"key": SECOND})
        assert not await is_known(config, key("a", FIRST))
        await taken(config, key("a", SECOND))
        subscriber = Subscriber(
            "127.0.0.1", "#", group="g", control_port=config.control_port, auth=key("a", SECOND)
        )
        async with subscriber:
            await until(lambda: bool(topic(running, "plain")["groups"]))
            await running.remove_client("a")
            # As a reload does that takes it out of the file: it joins nothing more, and its leases end.
            await running.add_topic({"name": "new"})
            assert topic(running, "new")["groups"] == []
            await until(lambda: not any(each["groups"] for each in running.status()["topics"]))
        # Nobody is left, and nobody is let in for that.
        assert running.documents.clients() == {"signed": True, "clients": []}
        assert not await is_known(config, key("a", SECOND))
        await refused(config, None, "must be signed")
        assert (await running.reload(config))[-1].startswith("there is no client, and everybody has to sign")
        await refused(config, None, "must be signed")
        await running.demand_signatures(signatures=False)
        await taken(config, None)
    assert things_in(tmp_path / "state", MADE) == {}


async def test_all_faults_come_at_once_without_a_key_in_them_and_what_contradicts_is_told(
    tmp_path: Path,
) -> None:
    own = ClientConfig("own", bytes.fromhex(FIRST))
    config = configuration(clients=(own,))
    async with broker(tmp_path, config) as running:
        with pytest.raises(BadClient) as bad:
            await running.add_client({"id": "-", "key": THIRD + "x", "publish": ["a/#/b"], "Key": 1})
        assert sorted(each.split()[1] for each in bad.value.problems) == ["Key", "id", "key", "publish[0]"]
        assert THIRD not in str(bad.value)
        for document, words in (
            ({"id": "own", "key": SECOND}, "there is a client 'own' already: the file has it"),
            ({"id": "new", "key": FIRST}, "the key is that of client 'own', too"),
        ):
            with pytest.raises(Refused, match=words) as error:
                await running.add_client(document)
            assert not any(secret in str(error.value) for secret in (FIRST, SECOND))
        await running.add_client({"id": "new", "key": SECOND})
        for changes, words in (({"id": "x"}, "id is .x.; allowed: .new."), ({"key": None}, "key is missing")):
            with pytest.raises(BadClient, match=words):
                await running.set_client("new", changes)
        with pytest.raises(Refused, match="the key is that of client 'own'"):
            await running.set_client("new", {"key": FIRST})
        for order in (running.set_client("own", {"publish": ["*"]}), running.remove_client("own")):
            with pytest.raises(Refused, match="stands in the configuration file"):
                await order
        for order in (running.set_client("nobody", {}), running.remove_client("nobody")):
            with pytest.raises(Refused, match="there is no client 'nobody'"):
                await order
        with pytest.raises(Refused, match="there are clients, such as 'own'"):
            await running.demand_signatures(signatures=False)
        twice = await asyncio.gather(
            *(running.add_client({"id": "twice", "key": THIRD}) for _ in range(2)), return_exceptions=True
        )
        assert sum(isinstance(each, Refused) for each in twice) == 1
        assert [each["id"] for each in running.documents.clients()["clients"]] == ["own", "new", "twice"]
    # Where nothing is kept, the next life would let everybody in: not with the first client made so.
    async with Broker(replace(config, control=ControlConfig()), NoFastPath("off")) as running:
        with pytest.raises(Refused, match="keeps no state"):
            await running.add_client({"id": "a", "key": FIRST})
        assert running.documents.clients() == {"signed": False, "clients": []}
    async with Broker(config, NoFastPath("off")) as running:
        assert (await running.add_client({"id": "a", "key": SECOND}))["durable"] is False


def _full(store: Store, *_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_what_the_disk_refuses_has_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration()
    async with broker(tmp_path, config) as running:
        monkeypatch.setattr(Store, "_write", _full)
        for order in (
            running.add_client({"id": "a", "key": FIRST}),
            running.demand_signatures(signatures=True),
        ):
            with pytest.raises(Refused, match="could not be written"):
                await order
        monkeypatch.undo()
        assert running.documents.clients() == {"signed": False, "clients": []}
        await taken(config, None)
        await running.add_client({"id": "a", "key": FIRST, "publish": ["*"]})
        monkeypatch.setattr(Store, "_write", _full)
        for again in (running.set_client("a", {"key": SECOND}), running.remove_client("a")):
            with pytest.raises(Refused, match="could not be written"):
                await again
        monkeypatch.undo()
        await taken(config, key("a", FIRST))


async def test_a_file_that_contradicts_is_told_and_one_that_agrees_takes_over(tmp_path: Path) -> None:
    config = configuration()
    made = ClientConfig("a", bytes.fromhex(FIRST), publish=("events",))

    def with_(*clients: ClientConfig) -> BrokerConfig:
        return replace(config, control=replace(config.control, clients=clients))

    contradictions = (
        (replace(made, key=bytes.fromhex(SECOND)), "client 'a' was made at run time, .*another key"),
        (replace(made, publish=()), r"publish \[events\] -> \[\]"),
        (replace(made, id="b"), "client 'b' of the file has the key of 'a'"),
    )
    async with broker(tmp_path, config) as running:
        await running.add_client({"id": "a", "key": FIRST, "publish": ["events"]})
        for client, words in contradictions:
            with pytest.raises(ConfigError, match=words) as error:
                await running.reload(with_(client))
            assert "tempos ctl client remove a" in str(error.value)
            assert not any(secret in str(error.value) for secret in (FIRST, SECOND))
            await taken(config, key("a", FIRST))
    for client, words in contradictions:
        store = Store.open(tmp_path / "state")
        with pytest.raises(ConfigError, match=words):
            Broker(with_(client), NoFastPath("off"), store=store)
        await store.close()
    async with broker(tmp_path, config) as running:
        assert await running.reload(config) == ()
        await taken(config, key("a", FIRST))
        words_ = await running.reload(with_(made))
        assert words_ == ("client a added", "client a is the file's now")
        assert running.documents.clients()["clients"][0]["origin"] == "file"
        await taken(config, key("a", FIRST))
        # It was made by an order once: that it goes from the file opens nothing.
        assert (await running.reload(config))[0] == "client a removed"
        await refused(config, None, "must be signed")
    assert things_in(tmp_path / "state", MADE) == {DEMANDED: True}


async def test_what_is_stored_and_makes_no_sense_is_left_out_and_the_broker_stays_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configuration()
    store = Store.open(tmp_path / "state")
    for name, document in (
        ("good", {"id": "good", "key": FIRST, "publish": ["*"]}), ("other", {"id": "o", "key": SECOND}),
        ("short", {"id": "short", "key": "22"}), ("twice", {"id": "twice", "key": FIRST}), ("none", []),
    ):  # fmt: skip
        assert await store.save([Thing(MADE, name, document)])
    await store.close()
    async with broker(tmp_path, config) as running:
        assert [each["id"] for each in running.documents.clients()["clients"]] == ["good"]
        for name in ("other", "short", "twice", "none"):
            assert f"client {name}, made at run time, is left out" in caplog.text
        await taken(config, key("good", FIRST))
        await running.remove_client("good")
        await refused(config, None, "must be signed")
    assert FIRST not in caplog.text


async def test_they_live_on_after_a_kill_and_no_key_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, lease=60.0)
    machine.configure('[[topic]]\nid = 1\nname = "events"\n')
    monkeypatch.setenv("TEMPOS_API", f"http://127.0.0.1:{machine.api}")
    monkeypatch.chdir(tmp_path)
    config = replace(configuration(), data_port=machine.data, control_port=machine.control)
    said: list[str] = []

    async def run(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, list(words))
        text = "".join(capsys.readouterr())
        said.append(text)
        return code, text

    with machine.broker(signal.SIGKILL):
        code, text = await run("ctl", "client", "add", "a", "-o", "a.key")
        assert (code, "everybody on this machine could give himself every right" in text) == (1, True)
        assert (await run("ctl", "client", "close"))[0] == 1
        assert not (tmp_path / "a.key").exists()
    open_to_all = machine.file.read_text()
    machine.file.write_text(open_to_all.replace("[broker]\n", f'[broker]\napi_token = "{TOKEN}"\n'))
    monkeypatch.setenv("TEMPOS_TOKEN", TOKEN)
    with machine.broker(signal.SIGKILL):
        assert await run("ctl", "client", "list") == (
            0, "there is no client: whoever reaches the broker may ask, unsigned\n",
        )  # fmt: skip
        code, _ = await run("ctl", "client", "add", "a", "--publish", "events", "-o", "a.key")
        assert (code, stat.S_IMODE((tmp_path / "a.key").stat().st_mode)) == (0, 0o600)
        first = read_key_file("a.key")
        await taken(config, first)
        # What is refused leaves no file of a key that is nobody's, and takes none for its own.
        code, text = await run("ctl", "client", "add", "a", "-o", "again.key")
        assert (code, "already: made at run time" in text, (tmp_path / "again.key").exists()) == (
            1,
            True,
            False,
        )
        code, text = await run("ctl", "client", "add", "b", "--publish", "x/#/y", "-o", "b.key")
        assert (code, "publish[0]" in text, (tmp_path / "b.key").exists()) == (1, True, False)
        code, text = await run("ctl", "client", "add", "b", "-o", "a.key")
        assert (code, "a.key cannot be made" in text, read_key_file("a.key")) == (1, True, first)
        code, text = await run("ctl", "client", "add", "b", "-o", "/dev/full")
        assert (code, "/dev/full cannot be made" in text) == (1, True), "nor is it written where others read"
        # Printed once, in the form that --auth-file takes; and the key of a file.
        code, text = await run("ctl", "client", "add", "b", "--publish", "*")
        said.pop()
        (tmp_path / "b.key").write_text(text.splitlines()[-1])
        (tmp_path / "b.key").chmod(0o600)
        await taken(config, second := read_key_file("b.key"))
        (tmp_path / "c.key").write_text(f"c {THIRD}\n")
        (tmp_path / "c.key").chmod(0o600)
        assert (await run("ctl", "client", "add", "c", "--key-file", "c.key"))[0] == 0
        assert (await run("ctl", "client", "add", "d", "--key-file", "c.key"))[0] == 1
        assert (await run("ctl", "client", "set", "c", "--publish", "events"))[0] == 0
        assert (await run("ctl", "client", "set", "b", "--new-key", "-o", "b.new"))[0] == 0
        assert not await is_known(config, second)
        code, text = await run("config", "dump")
        assert (code, '#id = "b"\n#key = "..."\n#publish = ["*"]\n' in text) == (0, True)
        assert (await run("ctl", "client", "list"))[1].splitlines()[1].split() == [
            "a", "events", "-", "at", "run", "time",
        ]  # fmt: skip
        paths = ("/v1/clients", "/v1/status", "/v1/changes", "/v1/options")
        said += [json.dumps(machine.get(path)) for path in paths]
    assert stat.S_IMODE(machine.state.stat().st_mode) == 0o600
    secrets = [first, second, read_key_file("b.new"), read_key_file("c.key")]
    with machine.broker(signal.SIGKILL) as process:
        await taken(config, first)
        await taken(config, secrets[2])
        assert not await is_known(config, second)
        for client in ("a", "b", "c"):
            code, text = await run("ctl", "client", "remove", client)
            assert (code, "everybody has to sign" in text) == (0, client == "c")
        process.kill()
        assert process.stderr is not None
        said.append(process.stderr.read())
    # Closed still: nobody took the last key away to let everybody in.
    with machine.broker() as process:
        await refused(config, None, "must be signed")
        assert not await is_known(config, first)
        assert (await run("ctl", "client", "open"))[0] == 0
        await taken(config, None)
        process.terminate()
        assert process.stderr is not None
        said.append(process.stderr.read())
    assert "there is no client, and everybody has to sign" in said[-1]
    assert not [each.id for each in secrets if any(each.secret.hex() in text for text in said)]
    code, text = await run("config", "dump", "--state", str(machine.state))
    assert (code, text) == (0, "")
