"""`tempos up`, whole: a signal becomes an event, a result its answer; so while all is changed or killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_ports
from support.upping import COUNT, TOKEN, Callers, Up, running
from support.waiting import LIMIT, until

from tempos.blocking import Subscriber
from tempos.doctor import Asked, Tried
from tempos_controller.doctor import gather


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with running(tmp_path) as up:
        yield up


def accounts(up: Up, name: str = "count") -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a workflow's endpoint, and of its first step."""
    told = up.done("GET", f"/v1/workflows/{name}")
    (endpoint,) = told["endpoints"]
    (step,) = told["steps"][0]["accounts"]
    return endpoint, step["account"]


def test_a_call_goes_all_the_way_and_comes_back(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        ready = up.start()
        assert f"controller http://127.0.0.1:{up.ports['controller']}" in ready[0]
        assert "fast path none (switched off in the configuration)" in ready[0]
        with Subscriber("127.0.0.1", "counts", control_port=up.ports["control"]) as results:
            asked = '{"text": "abracadabra", "pattern": "ab"}'
            url = f"http://127.0.0.1:{up.ports['http']}/count"
            done = subprocess.run(
                [shutil.which("curl") or "curl", "-sS", "-d", asked, url], capture_output=True, timeout=60
            )
            assert json.loads(done.stdout) == {"count": 2, "by": "one"}, (done, up.log())
            assert results.next(timeout=LIMIT).body == done.stdout
        listed = up.tempos("workflow", "ls")
        row = "count SQ texts http count counts by the file"
        assert listed.stdout.splitlines()[1].split() == row.split()
        shown = up.tempos("workflow", "show", "count").stdout
        assert "step count: texts -> count -> counts, errors to errors" in shown
        assert "1 accepted, 1 succeeded" in shown, shown
        assert "1 received, 1 published, 1 of 1 answered" in shown, shown
        endpoint, step = accounts(up)
        assert (endpoint["received"], endpoint["published"], step["accepted"], step["succeeded"]) == (
            1,
            1,
            1,
            1,
        )
        # Nobody else gets the folder, and nobody without the token anything.
        second = subprocess.run(
            [sys.executable, "-m", "tempos", "up", str(up.file), "--state", str(up.state)],
            capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
        assert second.returncode == 1
        assert "another Controller has the state folder" in second.stderr
        assert up.works()
        daemons = up.daemons()
        assert len(daemons) == 3
        assert up.stop() == 0
        assert up.daemons() == []


def test_the_doctor_tells_what_the_controller_finds(up: Up, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{up.ports['controller']}"
    token = tmp_path / "token"
    token.write_text(TOKEN)
    asked = Asked(controller=url, controller_token_file=str(token))

    def told() -> dict[str, Tried]:
        return {each.check: each for each in gather(asked)}

    assert {code: each.had for code, each in told().items()} == {"TD600": True}
    call = http.client.HTTPConnection("127.0.0.1", up.ports["http"], timeout=LIMIT)
    with contextlib.closing(call):
        call.request("POST", "/count", b"no JSON")
        assert call.getresponse().status >= 500
    until(lambda: "TD604" in told(), up.log)
    failures = told()["TD604"]
    assert failures.subject == "count, step count"
    assert failures.cause.startswith("1 ")
    assert "(since " in failures.cause
    assert failures.fix == "tempos workflow logs count"
    # What does not let one in is told, and so is one that was named and is not there.
    token.write_text("another")
    (refused,) = gather(asked)
    assert (refused.check, refused.had) == ("TD600", False)
    assert "token" in refused.cause
    up.stop()
    (gone,) = gather(asked)
    assert (gone.check, gone.had, gone.subject) == ("TD600", False, url)


def test_changes_under_load_lose_nothing(up: Up, tmp_path: Path) -> None:
    folder = tmp_path / "change"
    folder.mkdir()
    (folder / "count.py").write_text(COUNT % "two")
    (folder / "pass.py").write_text("def same(body):\n    return body\n")
    change = folder / "change.toml"
    function = '[[function]]\nname = "count"\nmode = "python"\ncode = "count.py"\nentry = "count:count"\n'
    with Callers(up) as callers:
        callers.more()
        change.write_text(function)
        assert (
            "~ invoker local: function count (python, count.py"
            in up.tempos("workflow", "apply", "--plan", str(change)).stdout
        )
        done = up.tempos("workflow", "apply", str(change))
        assert done.returncode == 0, (done.stderr, up.log())
        # From here on only the new version answers.
        before = len(callers.answers) + 2
        callers.more(20)
        assert {each["by"] for each in callers.answers[:before]} >= {"one"}
        assert {each["by"] for each in callers.answers[before:]} == {"two"}
        # Another topic, and a step more: both are served while it changes.
        change.write_text(
            '[[function]]\nname = "same"\nmode = "python"\ncode = "pass.py"\nentry = "pass:same"\n'
            '[[workflow]]\nname = "count"\ntrigger = "http"\ntopic = "others"\nclass = "SQ"\n'
            'error = "errors"\n[[workflow.step]]\nfunction = "count"\n'
            '[[workflow.step]]\nfunction = "same"\nresult = "counts"\n'
        )
        done = up.tempos("workflow", "apply", str(change))
        assert done.returncode == 0, (done.stderr, up.log())
        callers.more(20)
        endpoint, _ = accounts(up)
        assert endpoint["dropped"] == {}
        # And a step less; what is on its way through it arrives.
        up.done("PUT", "/v1/workflows/count", {**up_workflow(), "topic": "others"})
        callers.more(20)
    assert callers.failures == [], (callers.failures[:3], up.log())
    endpoint, step = accounts(up)
    assert endpoint["received"] == endpoint["published"] == len(callers.answers)
    assert step["accepted"] == step["succeeded"]
    assert up.done("GET", "/v1/plan") == {"changes": []}
    # A topic that was removed and made again is another one of that name.
    up.done("PUT", "/v1/workflows/count", up_workflow())
    until(up.works, up.story)


def up_workflow() -> dict[str, Any]:
    step = {"function": "count", "result": "counts"}
    return {"trigger": "http", "topic": "texts", "class": "SQ", "error": "errors", "step": [step]}


def ask_in_vain(up: Up, workflow: dict[str, Any]) -> None:
    """Ask for a change of a Controller that is about to be killed."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        up.ask("PUT", "/v1/workflows/count", workflow)


def test_each_part_may_be_killed(up: Up) -> None:
    before = {name: part["pid"] for name, part in up.parts().items()}
    # Without the Controller all goes on; the next one finds it.
    up.kill()
    assert up.works(), up.log()
    up.start()
    assert {name: part["pid"] for name, part in up.parts().items()} == before
    # Killed in the middle of a change it was never told to have made, it takes that back.
    with Callers(up, 1) as callers:
        changing = threading.Thread(target=ask_in_vain, args=(up, {**up_workflow(), "topic": "others"}))
        changing.start()
        until(lambda: '"changing": "{' in (up.state / "desired.json").read_text(), up.log)
        up.kill()
        changing.join()
        up.start()
        assert up.done("GET", "/v1/plan") == {"changes": []}
        assert '"changing": ""' in (up.state / "desired.json").read_text()
        callers.more()
    assert callers.failures == [], (callers.failures[:3], up.log())
    assert {name: part["pid"] for name, part in up.parts().items()} == before
    for name in ("invoker local", "trigger local", "broker"):
        os.kill(before[name], signal.SIGKILL)
        until(lambda name=name: up.parts()[name]["pid"] not in (None, before[name]), up.log)  # type: ignore[misc]
        until(up.works, up.story)
        part = up.parts()[name]
        assert part["restarts"] == 1
        # An earlier Controller started it, so nobody was told how it ended.
        assert part["reason"].startswith("ended"), part
    until(lambda: bool(up.done("GET", "/v1/status")["ready"]), up.log)
    # Those that were not killed are what they were.
    assert up.stop() == 0
    assert up.daemons() == []


def test_what_one_refuses_is_nowhere_in_force(up: Up, tmp_path: Path) -> None:
    change = tmp_path / "change.toml"
    (tmp_path / "bad.py").write_text("def other(body): ...\n")
    change.write_text(
        '[[function]]\nname = "bad"\nmode = "python"\ncode = "bad.py"\nentry = "bad:missing"\n'
        '[[workflow]]\nname = "bad"\ntopic = "bad/in"\n'
        '[[workflow.step]]\nfunction = "bad"\nresult = "bad/out"\n'
    )
    done = up.tempos("workflow", "apply", str(change))
    assert done.returncode == 1
    assert "nothing has changed" in done.stderr
    assert "missing" in done.stderr
    # A port that somebody has.
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        endpoint = {"name": "late", "kind": "http", "listen": f"127.0.0.1:{port}", "path": "/late"}
        late = {"name": "late", "topic": "late", "trigger": "late", "step": [{"function": "count"}]}
        status, problem = up.ask("POST", "/v1/apply", {"trigger": [endpoint], "workflow": [late]})
        assert status == 409, problem
        assert problem["detail"].startswith("nothing has changed: trigger local: ")
    listed = up.done("GET", "/v1/workflows")
    assert [each["name"] for each in listed] == ["count"]
    assert up.done("GET", "/v1/plan") == {"changes": []}
    assert up.works()
    # The same once the port is free.
    up.done("POST", "/v1/apply", {"trigger": [endpoint], "workflow": [late]})
    # What something needs stays, and what is not there is told.
    kept = up.tempos("platform", "rm", "trigger", "late")
    assert (kept.returncode, "late" in kept.stderr) == (1, True), kept.stderr
    assert up.tempos("workflow", "rm", "late").returncode == 0
    planned = up.tempos("platform", "rm", "trigger", "late", "--plan")
    assert (planned.returncode, planned.stdout) == (0, "nothing of what runs would change\n"), planned.stderr
    assert "late" in up.tempos("platform", "ls", "trigger").stdout
    assert up.tempos("platform", "rm", "trigger", "late").returncode == 0
    assert up.tempos("platform", "rm", "trigger", "late").returncode == 1
    listed = up.tempos("platform", "ls").stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [
        ["workflow", "count"], ["function", "count"], ["trigger", "http"], ["node", "local"]
    ], listed  # fmt: skip
    assert up.works()


def test_a_controller_that_begins_has_its_nodes_where_the_file_has_them_now(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        up.start()
        # Killed, so that the daemons of before run on: at one place is another one now.
        up.kill()
        before = up.ports["invoker"]
        up.ports["invoker"] = free_ports(1)[0]
        up.file.write_text(up.file.read_text().replace(f':{before}"', f':{up.ports["invoker"]}"'))
        up.start()
        assert up.works()
        assert up.parts()["invoker local"]["api"].endswith(f":{up.ports['invoker']}")
        assert up.stop() == 0
        assert up.daemons() == []


def test_a_file_that_is_not_in_force_is_told_where_it_says_that_it_is_ready(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        up.start()
        up.stop()
        (tmp_path / "bad.py").write_text("import nowhere\n")
        up.file.write_text(
            up.file.read_text() + '[[function]]\nname = "bad"\nmode = "python"\ncode = "bad.py"\n'
            'entry = "bad:f"\n[[workflow]]\nname = "bad"\ntopic = "bad"\n'
            '[[workflow.step]]\nfunction = "bad"\n'
        )
        up.start("ready, but not all is in force: ")
        said = up.told()
        assert said.startswith("  NOT IN FORCE  the file, what was before is: nothing has changed: invoker ")
        assert "No module named 'nowhere'" in said
        assert up.works()


def test_what_cannot_be_started_is_told_in_words_and_nothing_stays(tmp_path: Path) -> None:
    up = Up(tmp_path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", up.ports["data"]))
        done = subprocess.run(
            [sys.executable, "-m", "tempos", "up", str(up.file), "--state", str(up.state)],
            capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert (
        "tempos up: not everything could be started:\n  broker does not answer: it ended with" in done.stderr
    )
    assert "Address already in use" in done.stderr
    assert up.daemons() == []
