"""Privileges given up: by threads, by user, and with a fast path that still has to work afterwards.

Each case runs in a process of its own: what is given up does not come back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tempos_bench.nodes.patience import patience
from tempos_broker import privileges
from tests.support.privileges import require_kernel

needs_root = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="only root has something to give up"
)


def run(code: str, *arguments: str) -> Any:
    """What the code prints as JSON; it fails where the code does."""
    prelude = "import json, os, socket, sys, threading\nfrom tempos_broker import privileges as p\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_root
def test_nothing_is_left_without_a_fast_path_not_even_in_older_threads() -> None:
    told = run("""
        from concurrent.futures import ThreadPoolExecutor
        start = p.narrow(fast_path=False)
        pool = ThreadPoolExecutor(3)
        pool.submit(int).result()
        in_between = p.state()
        idle = threading.Event()
        threading.Thread(target=idle.wait, daemon=True).start()
        many = [threading.Thread(target=sum, args=(range(10**7),)) for _ in range(8)]
        [thread.start() for thread in many]
        p.finish(fast_path=False)
        refused = []
        for what in (lambda: open("/proc/1/environ", "rb").read(), lambda: os.setuid(1),
                     lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
                     lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 33, 1 << 30)):
            try:
                what()
            except PermissionError:
                refused.append(True)
        os.setuid(0)  # who one is already can always be asked for
        child = os.popen("grep CapEff /proc/self/status").read().split()[1]
        [thread.join() for thread in many]
        print(json.dumps([start.capabilities, in_between.capabilities, p.describe(), len(refused), child]))
    """)
    start, in_between, end, refused, child = told
    assert set(start) == privileges.START
    assert set(in_between) == privileges.START
    assert end == {
        "user": "root",
        "uid": 0,
        "capabilities": [],
        "no_new_privs": True,
        "reason": "root, without any capability",
    }
    assert refused == 4
    assert int(child, 16) == 0, "a program that is started gets none back"


@needs_root
def test_another_user_keeps_what_the_fast_path_needs_and_nothing_of_roots() -> None:
    told = run("""
        os.environ["XDG_RUNTIME_DIR"] = "/run/user/0"
        p.narrow(fast_path=True, user="nobody")
        end = p.finish(fast_path=True)
        environment = [os.environ.get(each) for each in ("USER", "HOME", "XDG_RUNTIME_DIR")]
        print(json.dumps([end.user, end.capabilities, end.no_new_privs, os.getgroups(), os.getresuid(),
                          environment]))
    """)
    import pwd

    nobody = pwd.getpwnam("nobody")
    assert told == ["nobody", sorted(privileges.FAST_PATH), True, [], [nobody.pw_uid] * 3,
                    ["nobody", nobody.pw_dir, None]]  # fmt: skip


@needs_root
def test_an_unknown_user_is_refused_and_so_is_a_change_without_root() -> None:
    told = run("""
        import pwd
        errors = []
        for prepare in (lambda: None, lambda: os.setresuid(*[pwd.getpwnam("nobody").pw_uid] * 3)):
            prepare()
            try:
                p.narrow(fast_path=False, user="no-such-user")
            except Exception as error:
                errors.append([type(error).__name__, str(error)])
        own = p.narrow(fast_path=False, user="nobody")
        print(json.dumps([errors, own.user, own.capabilities]))
    """)
    errors, user, capabilities = told
    assert [name for name, _ in errors] == ["Unavailable", "Unavailable"]
    assert "no user of that name" in errors[0][1]
    assert "only root can" in errors[1][1]
    assert (user, capabilities) == ("nobody", [])


@needs_root
def test_what_reaches_other_threads_is_there_before_the_user_changes() -> None:
    """Who the broker becomes may not be able to read where it is installed."""
    told = run("""
        before = "tempos_broker._batch" in sys.modules
        p.narrow(fast_path=False, user="nobody")
        print(json.dumps([before, "tempos_broker._batch" in sys.modules]))
    """)
    assert told == [False, True]


@needs_root
@pytest.mark.parametrize("user", ["", "nobody"])
def test_a_fast_path_starts_changes_and_ends_with_what_is_left(user: str) -> None:
    require_kernel()
    told = run(
        """
        import asyncio
        from pathlib import Path
        # A network and mounts of its own, gone with this process.
        libc = __import__("ctypes").CDLL(None)
        assert libc.unshare(0x40000000 | 0x00020000) == 0
        for command in (
            "! mountpoint -q / || mount --make-rprivate /",
            "mkdir -p /run/tempos", "mount -t tmpfs tmpfs /run/tempos", "mount -t bpf bpf /sys/fs/bpf",
            "ip link set lo up", "ip link add name va type veth peer name vb",
            "ip addr add 10.9.0.1/24 dev va", "ip link set va up", "ip link set vb up",
            "ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev va",
        ):
            assert os.system(command) == 0, command
        from tempos import Group, Member, Quality, Route, Topic
        # A broker has loaded all of itself before it narrows.
        from tempos_broker import belongings, broker, slowpath
        from tempos_broker.slowpath import udp
        from tempos_fastpath import beside, drops, loading, selector, starting
        from tempos_fastpath.network import trial
        from tempos_fastpath.survival import handles
        # Where any user can read them, wherever this checkout lies.
        for module in (beside, drops, loading, selector, trial):
            copy = Path("/run/tempos", module.OBJECT.name)
            copy.write_bytes(module.OBJECT.read_bytes())
            module.OBJECT = copy

        async def main():
            user = p.user_to_be(sys.argv[1])
            belongings.give("test", user)
            held = handles.give("test", user.uid, user.gid, make=True) if user.uid else None
            p.narrow(fast_path=True, user=sys.argv[1])
            fast = await starting.start(
                listen=("10.9.0.1",), port=9998, mode="generic", interfaces=("va",), name="test", held=held
            )
            place = held.folder if held else next(Path("/sys/fs/bpf/tempos/test").iterdir())
            pinned = len(list(place.iterdir()))
            end = p.finish(fast_path=True)
            paths = []
            for epoch in (1, 2, 3):
                route = Route(Topic(7, "t"), epoch, (Group("g", (Member("10.9.0.2", 5000 + epoch),)),))
                fast.tickets.reset(7, epoch)
                choice = await fast.install(route)
                paths.append([choice.path.value, choice.reason])
            # What a reload says of classes and rates, and sockets that are made anew.
            await fast.configure([Topic(7, "t", Quality.SQ, rate=1, burst=2), Topic(8, "u")])
            pair = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
            for each in pair:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                each.bind(("10.9.0.1", 9998))
                each.settimeout(10)
            fast.select(*(each.fileno() for each in pair))
            for topic in (8, 7):
                pair[0].sendto(bytes((topic,)), ("10.9.0.1", 9998))
            kept = [fast.limits.take(7, 9), *(each.recv(9)[0] for each in pair)]
            status = fast.status().mode
            await fast.close()
            left = os.popen("ip link show va").read()
            left_there = place.iterdir() if held else Path("/sys/fs/bpf/tempos").rglob("*")
            pins = [str(path) for path in left_there]
            gone = held is None or held.gone
            print(json.dumps([end.capabilities, status, paths, "xdp" in left, pinned, pins, gone, kept]))

        asyncio.run(main())
        """,
        user,
    )
    capabilities, mode, paths, attached, pinned, pins, gone, kept = told
    assert set(capabilities) == privileges.FAST_PATH
    assert mode == "generic"
    assert [path for path, _ in paths] == ["fast"] * 3, paths
    assert kept == [2, 7, 8], "rates and classes are set, and the selector is loaded, with what is left"
    assert not attached, "the program is detached at the end"
    assert pinned > 10
    assert (pins, gone) == ([], True), "whoever pinned them removes them, without a capability"


@needs_root
def test_a_user_that_cannot_read_the_programs_is_told_so() -> None:
    told = run("""
        p.require_readable()
        p.narrow(fast_path=False, user="nobody")
        try:
            p.require_readable()
        except Exception as error:
            print(json.dumps([type(error).__name__, str(error)]))
        else:
            print(json.dumps(None))
    """)
    places = (Path(os.__file__), Path(privileges.__file__))
    if all(parent.stat().st_mode & 0o001 for place in places for parent in place.parents):
        assert told is None
    else:
        assert told[0] == "Unavailable"
        assert told[1].startswith("'nobody' cannot read /")


def test_state_tells_names_and_never_fails() -> None:
    now = privileges.describe()
    assert now["uid"] == os.geteuid()
    assert isinstance(now["reason"], str)
    json.dumps(now)
