"""The platform's file: what it is refused for, told all at once, and what it means where it is sound."""

# ruff: noqa: E501 - a row of the table is easier to read than its pieces
from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.waiting import LIMIT

from tempos import ConfigError, Quality
from tempos_controller.config.load import load, parse, read
from tempos_controller.config.model import Platform
from tempos_controller.plan.wanted import compile_platform
from tempos_daemon.toml import document

ROOT = Path(__file__).resolve().parents[2]
F = '[[function]]\nname = "f"\nmode = "python"\nentry = "m:f"\n'
T = '[[trigger]]\nname = "t"\nkind = "udp"\nlisten = "127.0.0.1:9"\n'
W = '[[workflow]]\nname = "w"\ntopic = "a"\n'
S = '[[workflow.step]]\nfunction = "f"\n'
W2 = '[[workflow]]\nname = "v"\n'
N = '[[node]]\nname = "n"\n'

#: (text of the file, what it is refused for)
FAULTS = [
    ("[borker]", 'borker is an unknown key (did you mean "broker"?); allowed: controller, broker, node, function, trigger, workflow'),
    ('[controller]\napi = "off"', 'controller.api is "off"; allowed: where the commands of tempos reach the Controller'),
    ('[controller]\napi = "10.0.0.1:1"', "controller.api is 10.0.0.1:1, which others can reach; allowed: a loopback address, or controller.api_expose = true besides"),
    (f'[controller]\napi_token = "{"x" * 16}"\napi_token_file = "t"', "controller.api_token_file stands beside controller.api_token; allowed: one of them"),
    ('[broker]\nconfig = "nowhere.toml"', 'broker.config is "nowhere.toml": {folder}/nowhere.toml: cannot be read: No such file or directory'),
    ('[broker]\naddress = "10.0.0.1"\nlisten = ["10.0.0.1"]', "broker.listen stands beside broker.address; allowed: of a broker that runs: the options of that one, or one of them"),
    ('[broker]\nclient = "c"', "broker.key is missing beside broker.client; allowed: both or none"),
    ('[broker]\nclient = "c"\nkey = "short"', "broker.key is not what it must be (not shown: a secret); allowed: 32 to 128 hex digits, such as `openssl rand -hex 32` gives"),
    (N + 'invoker = "10.0.0.2:9995"', "node[0].invoker is 10.0.0.2:9995, which others can reach, and is to be started here; allowed: a loopback address, or node[0].start = false for one that runs already (in node \"n\")"),
    (N + 'invoker = "127.0.0.1:9994"', 'node[0].trigger is 127.0.0.1:9994, as node[0].invoker is; allowed: an address of its own (in node "n")'),
    (N + 'invoker_token_file = "x"', 'node[0].invoker_token_file is of a daemon that is started here, which is given a token; allowed: with node[0].start = false (in node "n")'),
    (N + 'start = false\npriority = 40', 'node[0].priority is for what is started here; allowed: with node[0].start = true, or in the files of the daemons that run there (in node "n")'),
    (N + "priority = 100", 'node[0].priority is 100; allowed: an integer from 0 to 99, 0 for ordinary scheduling (in node "n")'),
    ('[[function]]\nname = "f"\nmode = "pyton"', 'function[0].mode is "pyton", did you mean "python"?; allowed: "python" or "dlf" or "wasm" or "spawn" (in function "f")'),
    ('[[function]]\nname = "f"\nmode = "python"', 'function[0].entry is missing; allowed: "module:function" of Python (in function "f")'),
    ('[[function]]\nname = "f"\nmode = "dlf"', 'function[0].code is missing; allowed: the code of a function of mode "dlf" (in function "f")'),
    ('[[function]]\nname = "f"\nmode = "spawn"', 'function[0].args is missing; allowed: the program and its arguments, or code besides (in function "f")'),
    ('[[function]]\nname = "f"\nmode = "wasm"\ncode = "gone.wasm"', 'function[0].code is "gone.wasm", which cannot be read: No such file or directory; allowed: the file of the code, from the folder of this one (in function "f")'),
    (F + F, 'function[1].name is "f", as function[0].name is; allowed: each once (in function "f")'),
    (T + 'topic = "a"', 'trigger[0].topic is "a"; allowed: in the [[workflow]] that names this trigger (in trigger "t")'),
    (T + "since = 2026-11-28", 'trigger[0].since is 2026-11-28; allowed: a text, a number, true or false, a list or a table (in trigger "t")'),
    ('[[trigger]]\nname = "t"\nkind = "htp"\n', 'trigger[0].kind is "htp", did you mean "http"?; allowed: file, http, modbus, mqtt, nats, opcua, tcp, timer, udp (in trigger "t")'),
    (T + "max_age = -1", 'trigger[0].max_age is -1; allowed: a number of seconds from 0 to 3600 (in trigger "t")'),
    (T.replace("127.0.0.1:9", "nowhere"), 'trigger[0].listen is "nowhere"; allowed: "host:port" with an IPv4 address and a port from 1 to 65535, or "off" (in trigger "t")'),
    (T + 'node = "m"', 'trigger[0].node is "m", which no [[node]] is called; allowed: local (in trigger "t")'),
    (F + W, "workflow[0].step is missing; allowed: a list of tables of 1 to 256, each with the keys function, name, topic, group, result, error, node, reply, queue, retries, backoff, max_age (in workflow \"w\")"),
    (F + W + '[[workflow.step]]\nfunction = "g"', 'workflow[0].step[0].function is "g", which no [[function]] is called; allowed: f (in workflow "w")'),
    (F + W + 'trigger = "tt"\n' + S + T, 'workflow[0].trigger is "tt", which no [[trigger]] is called (did you mean "t"?); allowed: t (in workflow "w")'),
    (F + W + 'node = ["n", "m"]\n' + S + N, 'workflow[0].node is "m", which no [[node]] is called; allowed: n (in workflow "w")'),
    (F + W + S + N + 'invoker = "off"', 'workflow[0].step[0] is on node "n", whose invoker is "off"; allowed: another node (in workflow "w")'),
    (F + W + S + S, 'workflow[0].step[1].name is "f", as workflow[0].step[0].name is; allowed: each once in a workflow (in workflow "w")'),
    (F + W + S + 'result = ""\n' + S + 'name = "g"', 'workflow[0].step[0].result is none, but workflow[0].step[1] goes by it; allowed: a topic, or workflow[0].step[1].topic besides (in workflow "w")'),
    (F + W + S + 'group = "x"\n' + W2 + 'topic = "a"\n' + S + 'group = "x"', 'workflow[1].step[0].group is "x", as that of workflow[0].step[0] is on the same topic: each event would reach one of them; allowed: a group of its own (in workflow "v")'),
    (F + W + 'class = "SQ"\n' + S + W2 + 'topic = "a"\nclass = "BQ"\n' + S, 'workflow[1].class is "BQ", but topic "a" is "SQ" by workflow[0]; allowed: one class for a topic (in workflow "v")'),
    (F + W + 'class = "SQ"\n' + S + 'result = "b"\n' + W2 + 'topic = "b"\nclass = "BQ"\n' + S, 'workflow[1].class is "BQ", but topic "b" is "SQ" by workflow[0]; allowed: one class for a topic (in workflow "v")'),
    (F + W + "rate = 5\n" + S + W2 + 'topic = "a"\nrate = 6\n' + S, "workflow[1].rate is 6, but 5 by workflow[0].rate; allowed: the same for topic \"a\" (in workflow \"v\")"),
    (F + '[[workflow]]\nname = "w"\ntopic = "a/#"\nrate = 5\n' + S, 'workflow[0].rate is of a filter, which makes no topic; allowed: beside the name of one (in workflow "w")'),
    (F + T + '[[workflow]]\nname = "w"\ntopic = "a/#"\ntrigger = "t"\n' + S, 'workflow[0].trigger publishes on "a/#"; allowed: beside the name of a topic, or http with a value in its path, {...}, for each + (in workflow "w")'),
    (F + T + W + 'trigger = "t"\n' + S + W2 + 'topic = "b"\ntrigger = "t"\n' + S, 'workflow[1].trigger is "t", as workflow[0].trigger is, for "a"; allowed: a trigger of its own for each topic (in workflow "v")'),
    (F + W + S + 'result = "a"', 'workflow[0].step[0] leads back to itself: a (w/f) -> a (w/f); allowed: results and errors that end somewhere (in workflow "w")'),
    (F + W + S + 'result = "b"\n' + W2 + 'topic = "b"\n' + S + 'result = "a"', 'workflow[0].step[0] leads back to itself: a (w/f) -> b (v/f) -> a (w/f); allowed: results and errors that end somewhere (in workflow "w")'),
    (F + '[[workflow]]\nname = "w"\ntopic = "p/#"\n' + S + 'error = "p/errors"', 'workflow[0].step[0] leads back to itself: p/# (w/f) -> p/# (w/f); allowed: results and errors that end somewhere (in workflow "w")'),
]  # fmt: skip


def test_of_too_many_entries_only_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        parse("[[workflow]]\n" * 5000, "p.toml", tmp_path)
    (problem,) = refused.value.problems
    assert problem.startswith("p.toml: workflow has 5000 entries; allowed: a list of tables of at most 4096")


@pytest.mark.parametrize(("text", "fault"), FAULTS)
def test_a_fault_says_what_is_wrong_and_what_is_allowed(text: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text, "p.toml", tmp_path)
    assert refused.value.problems == [f"p.toml: {fault.replace('{folder}', str(tmp_path))}"]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = (
        N
        + 'start = 3\n[[function]]\nname = "-"\nmode = 7\n'
        + W
        + 'class = "XQ"\n'
        + '[[workflow.step]]\nfunction = "g"'
    )
    with pytest.raises(ConfigError) as refused:
        parse(text, "p.toml", tmp_path)
    paths = [problem.split()[1] for problem in refused.value.problems]
    assert paths == [
        "node[0].start",
        "function[0].name",
        "function[0].mode",
        "workflow[0].class",
        "workflow[0].step[0].function",
    ]


def platform(text: str) -> Platform:
    return parse(text, "p.toml", Path("/")).platform


def test_steps_chain_by_topics_and_keep_the_class() -> None:
    found = platform(
        F
        + W
        + 'class = "SQ"\nerror = "e"\n'
        + S
        + 'name = "one"\n'
        + S
        + 'name = "two"\nresult = "r"\n'
        + W2
        + 'topic = "r"\n'
        + S
    )
    first, second = found.workflows
    assert [(each.topic, each.result, each.reply, each.group) for each in first.steps] == [
        ("a", "w/one", False, "w/one"), ("w/one", "r", True, "w/two"),
    ]  # fmt: skip
    # Who says nothing of the class has that of the topic which is shared; errors are best effort.
    assert (second.quality, second.steps[0].quality) == (Quality.SQ, Quality.SQ)
    assert {each.name: each.options["class"] for each in found.topics} == {
        "a": "SQ",
        "w/one": "SQ",
        "r": "SQ",
        "e": "BQ",
    }


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_a_document_holds_is_read_or_refused(data: st.DataObject) -> None:
    document: Any = parse(
        N + F + T + W + 'trigger = "t"\n' + S + 'result = "r"\n', "p.toml", Path("/")
    ).documents
    document = json.loads(json.dumps(document))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = document
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(_plain)
    with contextlib.suppress(ConfigError):
        compile_platform(read(document, "p"))


def test_a_step_may_run_on_several_nodes_as_members_of_one_group() -> None:
    nodes = (
        '[[node]]\nname = "x"\nstart = false\ninvoker = "10.0.0.1:1"\ntrigger = "off"\nbroker = "10.0.0.9"\n'
        + N
    )
    parts = compile_platform(platform(nodes + F + W + S + 'node = ["x", "n"]\nretries = 2\n'))
    assert [parts.invokers[node].steps["w", "f"]["group"] for node in ("x", "n")] == ["w/f", "w/f"]
    assert parts.invokers["x"].broker["address"] == "10.0.0.9"
    assert parts.invokers["x"].document()["step"][0]["retries"] == 2
    assert parts.triggers.keys() == {"n"}


def test_what_no_workflow_names_is_nowhere_in_force() -> None:
    parts = compile_platform(platform(F + T))
    assert parts.topics == {}
    assert not parts.invokers["local"].functions
    assert not parts.triggers["local"].endpoints


def test_a_broker_of_a_file_of_its_own_is_where_that_file_says(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text(
        '[broker]\nlisten = ["10.1.1.1"]\ndata_port = 7\napi = "127.0.0.1:8"\napi_token_file = "t"\n'
    )
    broker = parse('[broker]\nconfig = "b.toml"\n', "p.toml", tmp_path).platform.broker
    assert (broker.address, broker.data_port, broker.api_port, broker.running) == ("10.1.1.1", 7, 8, False)
    assert (broker.config, broker.token_file) == (str(tmp_path / "b.toml"), str(tmp_path / "t"))


def test_code_is_named_by_its_hash_and_documents_are_read_as_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_bytes(b"code")
    loaded = parse(F + 'code = "f.py"\n' + W + S, "p.toml", tmp_path)
    digest = hashlib.sha256(b"code").hexdigest()
    assert loaded.code == {digest: b"code"}
    assert loaded.platform.functions[0].code == {"sha256": digest, "name": "f.py"}
    again = read(json.loads(json.dumps(loaded.documents)), "documents")
    assert again == loaded.platform
    with pytest.raises(ConfigError, match=r"function\[0\].code is .*whose sha256 is not 64 hex digits"):
        read({"function": [{"name": "f", "mode": "dlf", "code": {"sha256": "ff", "name": "f"}}]}, "documents")


def test_the_example_is_sound_and_names_every_option() -> None:
    from tempos_controller.config import layout

    file = ROOT / "config" / "platform.toml"
    assert load(file).platform.workflows[0].name == "count"
    lines = [line.removeprefix("#") for line in file.read_text().splitlines()]
    # What the file has commented out is sound, too, where it stands.
    text = "\n".join(
        line for line in lines if line.startswith("[") or (" = " in line and not line.startswith(" "))
    )
    written: dict[str, Any] = document(_once(text), "p.toml")
    assert written["controller"].keys() == layout.CONTROLLER.keys()
    assert written["broker"].keys() | {"config", "address"} == layout.BROKER.keys()
    assert written["node"][0].keys() == layout.NODE.keys()


def _once(text: str) -> str:
    """The file without the second of two lines for one key of a table, the default and what stands."""
    kept: list[str] = []
    table: set[str] = set()
    for line in text.splitlines():
        key = line.split(" = ")[0]
        if line.startswith("["):
            table = set()
        elif key in table:
            continue
        table.add(key)
        kept.append(line)
    return "\n".join(kept)


def tempos(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tempos", *words], capture_output=True, text=True, timeout=LIMIT, cwd=ROOT
    )


def test_the_commands_check_a_file(tmp_path: Path) -> None:
    done = tempos("platform", "check", "config/platform.toml")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "config/platform.toml: ok, 1 workflow, 1 function, 1 trigger, 3 topics, 1 node\n"
    bad = tmp_path / "bad.toml"
    bad.write_text("[brokr]\n" + W + S)
    done = tempos("platform", "check", "--json", str(bad))
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], len(told["problems"])) == (1, False, 2)


def test_what_names_no_node_goes_where_its_class_is() -> None:
    nodes = "".join(
        f'[[node]]\nname = "{name}"\n{more}\ninvoker = "127.0.0.1:{port}"\ntrigger = "127.0.0.1:{port + 1}"\n'
        for name, more, port in (
            ("strict", 'class = "SQ"\npriority = 40', 1),
            ("any", "", 3),
            ("more", "", 5),
        )
    )
    triggers = "".join(
        T.replace('"t"', f'"{name}"').replace(":9", f":{port}")
        for name, port in (("t", 20), ("u", 21), ("x", 22))
    )
    flows = (
        W
        + 'class = "SQ"\ntrigger = "t"\n'
        + S
        + 'result = "r"\n'
        # Shares a topic with it, and so the class.
        + W2
        + 'topic = "r"\ntrigger = "u"\n'
        + S
        + '[[workflow]]\nname = "b"\ntopic = "b"\ntrigger = "x"\n'
        + S
        + '[[workflow]]\nname = "said"\ntopic = "c"\nclass = "SQ"\nnode = "more"\n'
        + S
    )
    platform = parse(nodes + F + triggers + flows, "p", Path()).platform
    assert {step.workflow: step.nodes for flow in platform.workflows for step in flow.steps} == {
        "w": ("strict",), "v": ("strict",), "b": ("any",), "said": ("more",),
    }  # fmt: skip
    assert {each.name: each.node for each in platform.triggers} == {"t": "strict", "u": "strict", "x": "any"}
    assert [(each.quality, each.priority) for each in platform.nodes] == [
        (Quality.SQ, 40),
        (None, 0),
        (None, 0),
    ]
