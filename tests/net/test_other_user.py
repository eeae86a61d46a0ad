"""A broker that root starts and that becomes another user: its state, fast path, reloads, and neighbours.

It is what a service is started as: by root, in /run/tempos, with a configuration that only root can read.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.life import EVENTS, LIMIT, NAME, OTHER, PLAIN, Life, Members, present
from support.privileges import everybodys_python, require_kernel, require_netns
from support.processes import descendants, still_alive
from support.waiting import until

from tempos._places import WHOLE_FILE
from tempos_bench.nodes.node import PYTHON, ProgramFailed
from tempos_bench.nodes.topology import build

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

RUN = Path("/run/tempos")
USER = "nobody"
#: Memory that can be written is never code (PR_SET_MDWE, Linux 6.3), and files are their owner's alone.
SEALED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
os.umask(0o077)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    require_netns()
    require_kernel()
    python = everybodys_python()
    tmp_path.chmod(0o700)
    with build("straight") as topology, Life(topology, tmp_path) as made:
        made.python = python
        yield made


def owners(name: str) -> dict[str, tuple[str, int]]:
    """Whose a folder and what is in it are, and with which modes."""
    folder = RUN / name
    found = {}
    for path in (folder, *folder.iterdir()):
        now = path.lstat()
        who = pwd.getpwuid(now.st_uid).pw_name
        found["." if path == folder else path.name] = who, stat.S_IMODE(now.st_mode)
    return found


def test_members_fast_path_and_account_go_on_over_lives_as_another_user_and_as_root(life: Life) -> None:
    with Members(life) as members:
        life.start(user=USER, state="")
        joined = [members.join("events", "a"), members.join("plain", "a")]
        until(lambda: all(each["path"] == "fast" for each in life.ask("/v1/topics")),
              lambda: life.ask("/v1/topics"))  # fmt: skip
        state = life.ask("/v1/status")["broker"]["state"]
        assert state == str(RUN / NAME / "state.db")
        epochs = [life.topic(name)["epoch"] for name in ("events", "plain")]
        for user, how in ((USER, signal.SIGKILL), ("", signal.SIGTERM), (USER, signal.SIGTERM), ("", None)):
            found = owners(NAME)
            assert {who for who, _ in found.values()} == {user or "root"}, found
            modes = {mode for name, (_, mode) in found.items() if name.startswith("state.")}
            assert modes == {0o600}, found
            life.send(EVENTS)
            life.send(PLAIN)
            if how is None:
                break
            life.kill() if how is signal.SIGKILL else life.end(how)
            life.send(EVENTS)
            life.send(PLAIN)
            life.start(user="" if user else USER, state="")
            assert "taken over in" in str(life.ask("/v1/status"))
        assert [life.topic(name)["epoch"] for name in ("events", "plain")] == epochs
        wanted = [life.sent[EVENTS], life.sent[PLAIN]]
        until(lambda: [each.stats.datagrams for each in joined] == wanted)
        for each in joined:
            members.leave(each)
        for name, topic in (("events", EVENTS), ("plain", PLAIN)):
            account = life.topic(name)
            assert (account["received"], account["balanced"]) == (life.sent[topic], True), account
        life.end(signal.SIGINT)
        assert (life.carried(), life.pins.folder.exists()) == ([], False)


@pytest.mark.parametrize(
    ("user", "owner"), [(USER, "root"), ("", USER)], ids=["root's, for another", "another's, for root"]
)
def test_a_configuration_for_its_owners_eyes_is_reloaded_and_no_other_folder_is_touched(
    life: Life, user: str, owner: str
) -> None:
    life.start(name=OTHER, state="", fast={"mode": "off"})
    other, before = life.process, owners(OTHER)
    ports = {"data_port": 9988, "control_port": 9987, "api": "127.0.0.1:9986"}
    token = life.folder / "token"
    token.write_text("0123456789abcdef")
    fresh = life.folder / "fresh"
    fresh.write_text("")
    for path in (token, fresh, life.folder / "broker.toml", life.folder):
        os.chown(path, pwd.getpwnam(owner).pw_uid, -1)
        if path != life.folder:
            path.chmod(0o600)
    life.start(state="", fast={"mode": "off"}, user=user, api_token_file=str(token), **ports)
    assert owners(OTHER) == before
    file = life.folder / "broker.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # As an editor would: another file in the place of the old one.
    fresh.write_text(file.read_text().replace('name = "plain"', 'name = "other"'))
    fresh.rename(file)
    process = life.process
    process.send(signal.SIGHUP)
    assert process.wait_line("reload") == "reload: topic plain (300) removed"
    # The process that reads ends with its broker.
    (reader,) = descendants(process.pid)
    process.kill()
    assert not still_alive({reader}, LIMIT)
    other.terminate()
    assert other.wait(LIMIT) == 0, other.output
    life.start(name=OTHER, state="", fast={"mode": "off"})
    assert "WARNING" not in life.said
    assert life.ask("/v1/status")["broker"]["state"] == str(RUN / OTHER / "state.db")
    life.kill()


def pinned(life: Life) -> dict[str, int]:
    """Whose the pins are, and the folders they lie in."""
    folder = life.pins.folder
    return {str(path): path.lstat().st_uid for path in (folder.parent, folder, *folder.iterdir())}


@pytest.mark.parametrize(
    "other",
    [{"state": ""}, {"state": "off", "fast": {"mode": "off"}}, {"fast": {"mode": "off"}}],
    ids=["usual", "neither state nor fast path", "named state and no fast path"],
)
def test_what_a_living_broker_has_is_not_given_away_and_a_start_that_fails_harms_nobody(
    life: Life, other: dict[str, Any]
) -> None:
    with Members(life) as members:
        life.start(state="")
        member = members.join("events", "a")
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        first, before, pins = life.process, owners(NAME), pinned(life)
        with pytest.raises(ProgramFailed, match="in use by a broker that runs as another user than 'nobody'"):
            life.start(user=USER, data_port=9988, control_port=9987, api="127.0.0.1:9986", **other)
        assert (owners(NAME), pinned(life)) == (before, pins)
        life.send(EVENTS)
        first.kill()
        # One that fails after it has become another user.
        with (
            hold(life, "10.0.2.1", 9997),
            pytest.raises(ProgramFailed, match="cannot listen on"),
        ):
            life.start(state="", user=USER)
        life.send(EVENTS)
        life.start(state="")
        assert {who for who, _ in owners(NAME).values()} == {"root"}
        until(lambda: member.stats.datagrams == 100)
        members.leave(member)
        account = life.topic("events")
        assert (account["received"], account["balanced"]) == (100, True), account
        life.end(signal.SIGINT)


def test_a_reload_that_could_not_read_is_found_at_the_start(life: Life) -> None:
    # What may not be read lies where the broker's user could put links to other people's secrets.
    theirs = life.folder / "theirs"
    theirs.mkdir()
    life.folder.chmod(0o755)
    os.chown(theirs, pwd.getpwnam(USER).pw_uid, 0)
    life.folder, life.file = theirs, theirs / "broker.toml"
    with pytest.raises(ProgramFailed, match="a folder that the broker's user may change"):
        life.start(state="", user=USER, fast={"mode": "off"})


def test_state_of_an_earlier_version_moves_in(life: Life) -> None:
    life.start(state="", fast={"mode": "off"})
    with Members(life) as members:
        member = members.join("events", "a")
        life.send(EVENTS)
        until(lambda: member.stats.datagrams == 50)
        life.kill()
        folder = RUN / NAME
        for ending in ("", "-wal", "-tickets", "-slow"):
            (folder / f"state.db{ending}").rename(RUN / f"{NAME}.db{ending}")
        # Held, as by a broker elsewhere: else whoever clears up on this machine may take it.
        lock = RUN / f"{NAME}~17.fastpath.lock"
        lock.write_text('{"pid": 1, "interfaces": {}}')
        elsewhere = lock.open("rb+")
        fcntl.fcntl(elsewhere, fcntl.F_OFD_SETLK, WHOLE_FILE)
        life.start(state="", fast={"mode": "off"}, user=USER)
        assert life.topic("events")["received"] == 50
        members.leave(member)
        assert life.topic("events")["balanced"]
    with elsewhere:
        assert [path.name for path in RUN.glob(f"{NAME}*") if path.is_file()] == [lock.name]
        lock.unlink()
    life.kill()


def hold(life: Life, ip: str, port: int) -> socket.socket:
    def take() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((ip, port))
        return sock

    return life.topology.broker.call(take)


@pytest.mark.parametrize("libbpf", [True, False], ids=["libbpf", "without libbpf"])
def test_what_roots_broker_left_is_taken_off_by_one_without_a_fast_path_too(life: Life, libbpf: bool) -> None:
    with Members(life) as members:
        # Another user was here before, and left an empty place.
        life.start(state="", user=USER)
        life.end(signal.SIGINT)
        life.start(state="")
        member = members.join("events", "a")
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        life.send(EVENTS)
        life.end(signal.SIGTERM)
        life.send(EVENTS)
        until(lambda: member.stats.datagrams == 100, lambda: f"without a broker {life.said}")
        life.start(state="", user=USER, fast={"mode": "off"}, libbpf=libbpf)
        assert life.carried() == []
        assert not life.pins.folder.exists()
        until(lambda: present(life, "events") == {"a"}, lambda: life.topic("events"))
        life.send(EVENTS)
        until(lambda: member.stats.datagrams == 150, lambda: f"{member.stats} {life.said}")
        members.leave(member)
        account = life.topic("events")
        # Without libbpf what the kernel counted meanwhile cannot be read.
        assert (account["received"], account["balanced"]) == (150 if libbpf else 100, True), account
        life.kill()


def test_in_the_sandbox_of_its_unit_a_broker_has_all_that_it_has_without(life: Life) -> None:
    """As far as that goes without a service manager: capabilities, memory, modes of files."""
    text = (Path(__file__).resolve().parents[2] / "config/systemd/tempos-broker.service").read_text()
    names = [
        name.removeprefix("CAP_").lower()
        for value in re.findall("^CapabilityBoundingSet=(.*)$", text, re.M)
        for name in value.split()
    ]
    assert "MemoryDenyWriteExecute=yes" in text
    assert "UMask=0077" in text
    bounding = f"--bounding-set=-all,{','.join(f'+{name}' for name in names)}"
    life.python = (
        "setpriv",
        bounding,
        "--inh-caps=-all",
        "--no-new-privs",
        PYTHON,
        "-c",
        SEALED,
        *life.python,
    )
    with Members(life) as members:
        life.start(user=USER, state="")
        member = members.join("events", "a")
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast", lambda: life.ask("/v1/topics"))
        life.send(EVENTS)
        until(lambda: member.stats.datagrams == life.sent[EVENTS])
        assert life.pins.folder.exists()
        members.leave(member)
    life.kill()
