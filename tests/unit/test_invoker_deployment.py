"""How a deployment is written: every fault at once, versions, the example with every option."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tempos import ConfigError, Quality
from tempos_invoker.deploy import layout
from tempos_invoker.deploy.model import Code
from tempos_invoker.deploy.store import Store

ROOT = Path(__file__).resolve().parents[2]
SHA = "a" * 64
CODE = {"sha256": SHA, "name": "f.py"}
FUNCTION = {"name": "f", "mode": "python", "code": CODE, "entry": "f:f"}
STEP = {"workflow": "w", "name": "s", "function": "f", "class": "SQ", "topic": "t"}


def faults(**document: Any) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        layout.read(document)
    return [each.removeprefix("deployment: ") for each in refused.value.problems]


def test_every_fault_is_told_at_once() -> None:
    told = faults(
        revision="r" * 65,
        broker={"address": "127.0.0.1", "client": "me"},
        function=[
            FUNCTION,
            {**FUNCTION, "entry": "f"},
            {"name": "lib", "mode": "dlf", "entry": "x", "timeout": 0},
            {"name": "run", "mode": "spawn", "warmth": 1},
            {
                "name": "path",
                "mode": "python",
                "entry": "a:b",
                "code": "there.py",
                "ahead": 2,
                "processes": 3,
            },
        ],
        step=[
            STEP,
            {**STEP, "function": "g"},
            {**STEP, "name": "t", "result": "t", "class": "XQ"},
        ],
    )
    expected = [
        r'revision is "r+\.\.\., ?; allowed: text of at most 64|revision is "r',
        r"broker\.key is missing; client and key go together",
        r'function\[1\]\.entry is "f"; allowed: for mode python "module:function"',
        r"function\[2\]\.timeout is 0; allowed: a number of seconds",
        r'function\[2\]\.entry is "x"; allowed: for mode dlf none',
        r"function\[2\]\.code is missing; a function of mode dlf has a file",
        r'function\[3\]\.warmth is an unknown key \(did you mean "warm"\?\)',
        r"function\[3\]\.args is missing; a function of mode spawn has code, args, or both",
        r"function\[4\]\.ahead is 2; allowed: 0 for mode python",
        r"function\[4\]\.processes is 3; allowed: 0 for mode python",
        r'function\[4\]\.code is "there.py"; allowed: what was uploaded',
        r'function\[1\]\.name is "f", as function\[0\] has; allowed: each once',
        r'step\[1\]\.name is "w/s", as step\[0\] has; allowed: each once',
        r'step\[1\]\.function is "g", which is no function here; allowed: f, lib, path, run',
        r'step\[2\]\.class is "XQ"; allowed: "SQ" or "BQ"',
        r'step\[2\]\.result is "t", which feeds itself; allowed: another topic than the step\'s own, or none',
    ]
    for pattern in expected:
        assert any(re.match(pattern, each) for each in told), (pattern, told)
    assert len(told) == len(expected), told


@pytest.mark.parametrize("document", [None, [], "x", {"function": {}}, {"step": [1]}, {"broker": 7}])
def test_what_is_no_document_is_refused(document: object) -> None:
    with pytest.raises(ConfigError):
        layout.read(document)


def test_defaults_and_the_way_back() -> None:
    document = {
        "revision": "r1",
        "function": [{**FUNCTION, "args": ["-v", "-v"], "env": {"A": "b"}, "warm": ""}],
        "step": [STEP],
    }
    deployment = layout.read(document)
    (step,) = deployment.steps
    assert (step.group, step.quality, step.queue, step.reply) == ("w/s", Quality.SQ, 1024, True)
    told = layout.as_document(deployment)
    again = {**told, "broker": {k: v for k, v in told["broker"].items() if k != "client"}}
    assert layout.read(again) == deployment
    secret = {"client": "me", "key": "ab" * 32}
    assert "key" not in layout.as_document(layout.read({"broker": secret}))["broker"]


def test_another_version_is_whatever_makes_another_function() -> None:
    def version(**more: Any) -> str:
        return layout.read({"function": [{**FUNCTION, **more}]}).functions[0].version

    same = version()
    assert version(concurrency=7) == same
    others = [{"timeout": 2}, {"code": {**CODE, "sha256": "b" * 64}}, {"env": {"A": "1"}}, {"warm": ""}]
    assert len({same, *(version(**other) for other in others)}) == len(others) + 1


def test_the_example_has_every_option_with_its_default() -> None:
    file = ROOT / "config/invoker.toml"
    settings, deployment = layout.load(file)
    assert settings == layout.Settings(fixed=True)
    assert deployment.functions[0].code is not None
    text = file.read_text()
    for keys in (layout.INVOKER, layout.BROKER, layout.FUNCTION, layout.STEP, {"revision": None}):
        for key in keys:
            assert re.search(rf"^#?{key} = ", text, re.M), key
    # Those that are commented out are the defaults: with them the file says the same.
    shown = re.sub(r"^#(?!client|key|cpus)([a-z_]+ = )", r"\1", text, flags=re.M)
    assert shown != text
    whole = file.with_name("invoker.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout.toml, "read_text", lambda path: shown)
        assert layout.load(whole) == (settings, deployment)


def test_an_api_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    file = tmp_path / "i.toml"
    file.write_text('[invoker]\napi = "0.0.0.0:9995"\n')
    with pytest.raises(ConfigError, match="without a token, and may run any code"):
        layout.load(file)
    file.write_text('[invoker]\napi = "0.0.0.0:9995"\napi_token = "0123456789abcdef"\n')
    assert not layout.load(file)[0].fixed
    # Of one that is no token nothing more is said.
    file.write_text('[invoker]\napi = "0.0.0.0:9995"\napi_token = "short"\n')
    with pytest.raises(ConfigError) as caught:
        layout.load(file)
    assert len(caught.value.problems) == 1


def test_code_under_another_name_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a writer left that was killed is no code; a copy for which there is no room is none either."""
    content = b"def f(body): ..."
    sha256 = hashlib.sha256(content).hexdigest()
    store = Store(tmp_path / "state")
    try:
        part = store.part()
        part.write_bytes(content)
        store.keep(part, sha256)
        folder = store.folder / "code" / sha256
        (folder / ".f.py.0a1b2c3d.part").write_bytes(content[:4])
        (folder / "code").rename(folder / "g.py")
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", no_room)
            with pytest.raises(OSError, match="No space"):
                store.find(Code(sha256, "f.py"))
        assert not (folder / "f.py").exists()
        found = store.find(Code(sha256, "f.py"))
        assert found is not None
        assert (found.name, found.read_bytes()) == ("f.py", content)
        assert sorted(path.name for path in folder.iterdir()) == ["f.py", "g.py"]
        (folder / "f.py").unlink()
        (folder / "g.py").rename(folder / ".g.py.0a1b2c3d.part")
        assert store.find(Code(sha256, "f.py")) is None
    finally:
        store.close()


def no_room(number: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_code_has_a_path_for_each_version_and_goes_when_it_is_old(tmp_path: Path) -> None:
    file = tmp_path / "f.py"
    store = Store(tmp_path / "state")
    try:
        paths = []
        for text in ("1", "2"):
            file.write_text(text)
            toml = tmp_path / "i.toml"
            toml.write_text('[[function]]\nname = "f"\nmode = "python"\ncode = "f.py"\nentry = "f:f"\n')
            code = layout.load(toml)[1].functions[0].code
            assert code is not None
            paths.append(Path(store.adopt(code).path))
            assert store.adopt(code).folder == str(tmp_path)
        assert [path.read_text() for path in paths] == ["1", "2"]
        assert [path.name for path in paths] == ["f.py", "f.py"]
        with pytest.raises(Exception, match="another invoker has the state folder"):
            Store(tmp_path / "state")
        store.sweep(set())
        assert paths[0].exists()
        os.utime(paths[0].parent, (1, 1))
        os.utime(paths[1].parent, (1, 1))
        store.sweep({paths[1].parent.name})
        assert [path.exists() for path in paths] == [False, True]
        # A change that is in force has to come to its end, whoever has removed the folder meanwhile.
        shutil.rmtree(store.folder)
        store.sweep(set())
    finally:
        store.close()
