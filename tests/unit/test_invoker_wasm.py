"""Functions as WebAssembly modules: both forms, their limits, and what is said of one that cannot be used."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path

import pytest
from support import functions
from support.workers import WorkerProcess

from tempos_invoker.worker import wasm_module
from tempos_invoker.worker.unfit import Unfit
from tempos_invoker.worker.wasm import WasmFunction
from tempos_invoker.worker.wasm_cache import Cache
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Call, Condition

pytest.importorskip("wasmtime")

WHO = {"topic": "plant/press", "workflow": "w", "step": "s"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("modules")
    return {name: functions.module(folder, name) for name in ("count", "hostile")}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return functions.command(tmp_path_factory.mktemp("commands"), "command")


def spec(path: Path | str, entry: str = "tempos_call", **more: object) -> dict[str, object]:
    return {"code": str(path), "entry": entry, "timeout": 1.0, "function": "f", **more}


def why(path: Path | str, entry: str = "tempos_call", **more: object) -> str:
    with pytest.raises(Unfit) as told:
        WasmFunction(spec(path, entry, **more))
    return str(told.value)


def test_an_exported_function_is_called_and_told_of_its_event(built: dict[str, Path]) -> None:
    with WorkerProcess(mode="wasm", code=str(built["hostile"]), entry="tempos_call") as worker:
        assert worker.hello["ok"], worker.hello
        worker.send(Call(0, json.dumps(WHO).encode(), place=3, flags=frames.PLACE))
        told = worker.ask(b"who", publisher=7, sequence=9, sent_ns=11, attempt=2, place=3)
        assert told.output == b"plant/press w s 7 9 2 11 in time"
        assert [worker.ask(b"calls").output for _ in range(3)] == [b"1"] * 3, "each in a fresh instance"
        for size in (8 << 10, 1 << 16):
            body = b"echo " + b"x" * (size - 5)
            assert worker.ask(body).output == body
        assert worker.ask(b"echo " + b"x" * (frames.LARGEST_BODY - 5)).output == body, "cut off by itself"
    with WorkerProcess(mode="wasm", code=str(built["count"]), entry="tempos_call") as worker:
        body = json.dumps({"message": "xabcabc--abc", "pattern": "abc"}).encode()
        assert worker.ask(body).output == struct.pack("<d", 0 + 1 + 4)


ASKS = r"""
#define IMPORT(name) __attribute__((import_module("tempos"), import_name(name)))
IMPORT("event") long long event(int what);
IMPORT("text") int text(int what, char *to, int room);
IMPORT("log") void line(const char *from, int length);
static char body[64], output[64];
__attribute__((export_name("tempos_alloc"))) char *room(unsigned length) { return body; }
__attribute__((export_name("asks"))) unsigned long long asks(const char *from, unsigned length)
{
	int at = 0;
	for (int what = 0; what < 7; what++)
		output[at++] = (char)('0' + event(what) % 10);
	for (int what = 0; what < 4; what++)
		text(what, output + at, 5), at += 5;
	line(output, 4);
	line((const char *)0x7fffffff, 8);
	return (unsigned long long)(unsigned long)output << 32 | (unsigned)at;
}
"""


def test_what_a_module_may_ask(tmp_path: Path) -> None:
    source = tmp_path / "asks.c"
    source.write_text(ASKS)
    built = functions.module(tmp_path, "asks", source=source)
    with WorkerProcess(mode="wasm", code=str(built), entry="asks", output=99) as worker:
        assert worker.hello["ok"], worker.hello
        worker.send(Call(0, json.dumps(WHO).encode(), place=3, flags=frames.PLACE))
        answer = worker.ask(b"", publisher=7, sequence=9, sent_ns=11, attempt=2, place=3)
        told = answer.output
        assert (told[:4], told[5:7]) == (b"7921", b"90"), "the room is 99, and there is no seventh"
        assert told[7:] == b"plantw\0\0\0\0s\0\0\0\0\0\0\0\0\0"
    assert worker.output == "[00000007:00000009] 7921\n"


def test_every_way_an_exported_function_ends(built: dict[str, Path]) -> None:
    with WorkerProcess(
        mode="wasm", code=str(built["hostile"]), entry="tempos_call", output=100, timeout=0.05, memory=4 << 20
    ) as worker:
        for deed, condition, text in (
            (b"refuse", Condition.REFUSED, b"not this one"),
            (b"fail", Condition.ERROR, b"seven is not enough"),
            (b"large", Condition.TOO_LARGE, b"the output has 101 bytes, 100 are allowed"),
            (b"crash", Condition.CRASH, b"wasm trap: wasm `unreachable` instruction executed"),
            (b"wild", Condition.ERROR, b"its result lies outside its memory: 8 bytes at 2147418112"),
            (b"loop", Condition.TIMEOUT, b"ended at its deadline"),
            (b"echo", Condition.SUCCEEDED, b"echo"),
        ):
            answer = worker.ask(deed)
            assert (answer.condition, answer.output) == (condition, text)
        assert worker.ask(b"nothing").flags == frames.NOTHING
        grown = worker.ask(b"grow")
        assert grown.condition == Condition.SUCCEEDED
        assert 4 << 20 >= int(grown.output) * wasm_module.PAGE > (4 << 20) - 16 * wasm_module.PAGE


def test_a_deadline_is_the_calls_own_and_none_hits_the_next_one(built: dict[str, Path]) -> None:
    with WorkerProcess(mode="wasm", code=str(built["hostile"]), entry="tempos_call", timeout=10.0) as worker:
        for _ in range(3):
            begun = time.monotonic_ns()
            answer = worker.ask(b"loop", deadline_ns=begun + 20_000_000)
            assert answer.condition == Condition.TIMEOUT
            assert answer.ended_ns >= begun + 20_000_000
            assert worker.ask(b"echo").condition == Condition.SUCCEEDED
        assert worker.ask(b"echo", deadline_ns=1).condition in (Condition.SUCCEEDED, Condition.TIMEOUT)
        assert worker.ask(b"loop", deadline_ns=1).condition == Condition.TIMEOUT


def test_a_command_of_wasi(command: Path) -> None:
    with WorkerProcess(
        mode="wasm",
        code=str(command),
        entry="",
        timeout=0.3,
        args=["-v", "x"],
        env={"SET": "for it"},
        function="mine",
    ) as worker:
        assert worker.hello["ok"], worker.hello
        assert worker.ask(b"echo this").output == b"echo this"
        assert worker.ask(b"args").output == b"mine;-v;x;"
        assert worker.ask(b"env SET").output == b"for it"
        assert worker.ask(b"env PATH").output == b"(none)", "nothing of ours"
        assert worker.ask(b"env TEMPOS_ID", publisher=0xAB, sequence=1).output == b"000000ab:00000001"
        assert worker.ask(b"read /etc/passwd").output == b"(not to be read)"
        assert worker.ask(b"nothing").flags == frames.NOTHING
        for deed, condition, text in (
            (b"exit 0", Condition.SUCCEEDED, b""),
            (b"exit 3", Condition.ERROR, b"exit code 3: exits with 3"),
            (b"exit 65", Condition.REFUSED, b"exits with 65"),
            (b"crash", Condition.CRASH, b"wasm trap: wasm `unreachable` instruction executed"),
            (b"loop", Condition.TIMEOUT, b"ended at its deadline"),
        ):
            answer = worker.ask(deed, publisher=1)
            assert (answer.condition, answer.output) == (condition, text)
        large = worker.ask(b"large")
        assert (large.condition, large.output[:15]) == (Condition.TOO_LARGE, b"the output has ")
    assert "[00000001:00000000] before\n[00000001:00000000] exits with 3\n" in worker.output


def test_a_command_sees_the_folders_that_it_was_granted(command: Path, tmp_path: Path) -> None:
    read, write = tmp_path / "r", tmp_path / "w"
    for folder in (read, write):
        folder.mkdir()
        (folder / "file").write_text("there")
    function = WasmFunction(spec(command, "", grants=[f"read:{read}=/in", f"write:{write}"]))
    assert function.once(b"read /in/file").output == b"there"
    assert function.once(b"write /in/file").output == b"(not to be written)"
    assert function.once(f"write {write}/new".encode()).output == b"written"
    assert (write / "new").read_text() == "written"
    assert function.once(f"read {write}/../r/file".encode()).output == b"(not to be read)"
    assert "is none; allowed: read:/folder" in why(command, "", grants=["all:/"])
    assert "is no folder" in why(command, "", grants=[f"read:{read}/file"])


def test_a_module_is_compiled_once_for_an_engine_and_its_settings(
    built: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    asked = spec(built["count"], cache=str(folder))
    first = WasmFunction(asked)
    (kept,) = folder.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    compiled = kept.read_bytes()
    del first
    kept.write_bytes(compiled[:-1] + bytes([compiled[-1] ^ 1]))
    second = WasmFunction(asked)
    assert kept.read_bytes() == compiled, "damaged, so it was compiled anew"
    body = json.dumps({"message": "abc", "pattern": "abc"}).encode()
    del second
    # What another engine made is refused by this one, and replaced.
    Cache(str(folder)).put(kept.name, b"something else")
    assert WasmFunction(asked).once(body).output == bytes(8)
    assert "is of no use" in capsys.readouterr().err
    assert kept.read_bytes() == compiled


def test_code_that_others_could_have_put_there_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = Cache(str(folder))
    cache.put("key", b"code")
    assert cache.get("key") == b"code"
    (folder / "key").chmod(0o666)
    assert cache.get("key") is None
    (folder / "key").rename(tmp_path / "away")
    (folder / "key").symlink_to(tmp_path / "away")
    assert cache.get("key") is None
    folder.chmod(0o777)
    cache = Cache(str(folder))
    assert cache.remark == f"others can write to {folder}"
    assert cache.get("key") is None
    cache.put("other", b"code")
    assert not (folder / "other").exists()
    if os.geteuid() == 0:
        folder.chmod(0o700)
        os.chown(folder, 12345, -1)
        assert Cache(str(folder)).remark == f"{folder} belongs to another user"


def test_what_cannot_be_a_module_is_told(built: dict[str, Path], command: Path, tmp_path: Path) -> None:
    count = built["count"]
    assert "needs its module as code" in why("")
    assert "cannot be read: No such file" in why(tmp_path / "gone.wasm")
    other = tmp_path / "other.wasm"
    for content, text in (
        (b"\x7fELF", "it does not begin as one"),
        (b" (module)", "it is text; translate it with wat2wasm"),
        (b"\0asm\x0d\0\x01\0", "it is a component"),
        (count.read_bytes()[:100], "it is cut off, or damaged"),
    ):
        other.write_bytes(content)
        assert f"other.wasm is no WebAssembly module: {text}" in why(other)
    damaged = bytearray(count.read_bytes())
    damaged[damaged.rindex(b"\x0b\x0b")] = 0xFF
    other.write_bytes(damaged)
    assert why(other).startswith("other.wasm cannot be compiled: ")
    assert "exports no function absent; it exports tempos_alloc, tempos_call" in why(count, "absent")
    assert "tempos_alloc of count.wasm is (i32) -> (i32), and has to be (i32, i32) -> (i64)" in why(
        count, "tempos_alloc"
    )
    assert "count.wasm is no command of WASI, which has _start" in why(count, "")
    assert "exports no function tempos_call; it exports _start" in why(command)
    assert "count.wasm wants 0.1875 MiB of memory, 0.125 MiB are allowed" in why(count, memory=1 << 17)
    assert "64 bytes of memory" not in why(count, memory=64)
    assert "are less than one" in why(count, memory=64)
    assert "not 4294967296" in why(count, memory=4 << 30)
    source = tmp_path / "needs.c"
    source.write_text(
        '__attribute__((import_module("env"), import_name("clock"))) int clock_(void);\n'
        '__attribute__((export_name("tempos_call"))) int f(void) { return clock_(); }'
    )
    needs = functions.module(tmp_path, "needs", source=source)
    assert "needs.wasm imports env.clock, which nobody provides; there is wasi_snapshot" in why(needs)


def test_a_module_works_where_address_space_is_limited(built: dict[str, Path]) -> None:
    """A pool reserves 4 GiB for a memory, where it may."""
    code = (
        "import resource, sys; from tempos_invoker.worker.wasm import WasmFunction\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        f"f = WasmFunction({spec(built['hostile'])!r})\n"
        "print(f.once(b'echo').output, f.once(b'crash').condition.name, f.once(b'wild').condition.name)"
    )
    assert functions.python(code) == "b'echo' CRASH ERROR\n"
