"""What `tempos doctor` says of a broker that runs: from its status alone, with commands that there are."""

from __future__ import annotations

import json
import shlex
import threading
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tempos.cli.main import main, parser_of
from tempos.doctor import Asked, Severity, Tried, archive, judge
from tempos.doctor.findings import BAD
from tempos.doctor.serving import MANY, PAST, SERVING, few, gather, look, moments, timed

TOKEN = "a-token-that-nobody-sees"


def ago(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() - seconds, timezone.utc).isoformat()


def member(port: int, **said: Any) -> dict[str, Any]:
    usual = {
        "static": False,
        "from": "10.0.1.1",
        "left_out": "",
        "unheard": 0,
        "ticketed": 500,
        "delivered": 500,
    }
    return {"ip": "10.0.2.2", "port": port, **usual, **said}


def status(**wrong: Any) -> dict[str, Any]:
    group = {
        "name": "w x", "tickets": 1000, "lost": 0, "dropped": 0, "members": [member(1), member(2)],
        "pending": 0, "lapsed": 0, "orphaned": 0, "lost_at": None,
    }  # fmt: skip
    topic = {
        "name": "news", "balanced": True, "problems": [], "policy": "auto", "path": "slow", "reason": "off",
        "refused": {}, "received": 1000, "lost_before": {"at_least": 0, "sent": 1000}, "groups": [group],
        "journal": None,
    }  # fmt: skip
    if isinstance(passed := wrong.get("lost_at"), (int, float)):
        # Seconds ago: of now, however long ago the tests were collected.
        wrong["lost_at"] = ago(passed)
    group.update({key: wrong.pop(key) for key in list(wrong) if key in group})
    topic.update({key: wrong.pop(key) for key in list(wrong) if key in topic})
    return {
        "broker": {
            "name": "b", "version": "1", "pid": 1, "uptime_s": 2.0, "ready": True, "awaited": [],
            "state": "/run/tempos/b/state.db", "state_trouble": wrong.get("state_trouble", ""),
        },
        "paths": {"fast": {"drops": wrong.get("drops", {})}},
        "quality": {
            "classes": {"SQ": {"overruns": wrong.get("overruns", 0)}},
            "worker": {"state": wrong.get("worker", "off"), "reason": "as it is"},
        },
        "control": {"refused": wrong.get("clients", {})},
        "slow_consumers": wrong.get("slow_consumers", []),
        "topics": [topic],
        **({"fleet": fleet(wrong["fleet"])} if "fleet" in wrong else {}),
    }  # fmt: skip


def fleet(wrong: dict[str, Any]) -> dict[str, Any]:
    """Of two brokers; ``wrong`` is what is otherwise, ``there``: of the other one."""
    usual = {"api": "10.0.1.2:9996", "in_force": 9, "lacks": 0, "lacks_topics": 0, "lacks_clients": 0}
    brokers = [{**usual, "name": "b"}, {**usual, "name": "two", **wrong.pop("there", {})}]
    return {"name": "hall", "broker": "b", "registry": "in reach", "why": "", "since_s": 7.2, "untold": 0,
            "clients": 0, "shares_keys": True, "lacks_topics": [], "lacks_clients": [], "brokers": brokers,
            **wrong}  # fmt: skip


LACKING = [{"name": "own", "reason": "the file has it otherwise"}]


SLOW = {"ip": "10.0.2.2", "port": 1, "reason": "drops", "groups": [{"topic": "news", "group": "w x"}]}


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({}, None),
        ({"balanced": False, "problems": ["1 event too many"]}, "TD402"),
        ({"policy": "fast"}, "TD403"),
        ({"policy": "fast", "members": []}, None),
        ({"policy": "fast", "members": [member(1, left_out="no way to it"), member(2)]}, "TD404"),
        ({"members": [member(1, left_out="it does not answer")]}, "TD404"),
        ({"members": [member(1, static=True, left_out="it does not answer")]}, "TD404"),
        ({"members": [member(1, unheard=7)]}, "TD405"),
        ({"journal": {"reason": "no memory"}}, "TD417"),
        ({"members": [], "pending": 3, "orphaned": 3}, "TD418"),
        ({"members": [member(1, ip="0.0.1.1", left_out="nobody is there")]}, "TD418"),
        ({"lapsed": 2, "orphaned": 3}, "TD419"),
        ({"slow_consumers": [SLOW]}, "TD406"),
        ({"lost": 1}, None),
        ({"lost": 1, "dropped": 1}, "TD407"),
        ({"name": "~", "lost": 9, "members": []}, "TD407"),
        ({"name": "~", "lost": 9, "members": [], "lost_at": PAST - 60}, "TD407"),
        ({"name": "~", "lost": 9, "members": [], "lost_at": PAST + 1}, "TD420"),
        ({"lost": 9, "members": [], "pending": 3, "lost_at": PAST + 1}, ["TD407", "TD418"]),
        ({"members": [member(1, delivered=449), member(2)]}, "TD408"),
        ({"members": [member(1, delivered=451), member(2)]}, None),
        ({"members": [member(1, delivered=0, ticketed=99), member(2)]}, None),
        ({"refused": {"over_rate": 3}}, "TD409"),
        ({"clients": {"wrong key": 2}}, "TD410"),
        ({"overruns": 4}, "TD411"),
        ({"drops": {"eth1": {"ENXIO": 4}}}, "TD412"),
        ({"worker": "waiting"}, "TD413"),
        ({"lost_before": {"at_least": 4, "sent": 9}}, "TD414"),
        ({"lost_before": {"at_least": 4, "sent": 9}, "refused": {"over_rate": 4}}, "TD409"),
        ({"lost_before": {"at_least": 4, "sent": 9}, "refused": {"over_rate": 3}}, ["TD409", "TD414"]),
        ({"refused": {"no_member": 3}}, "TD415"),
        ({"fleet": {"clients": 3, "there": {}}}, None),
        ({"fleet": {"registry": "being asked"}}, None),
        ({"fleet": {"registry": "away", "why": "etcd does not answer"}}, "TD421"),
        ({"fleet": {"lacks_topics": LACKING}}, "TD422"),
        ({"fleet": {"lacks_clients": LACKING}}, "TD423"),
        ({"fleet": {"there": {"lacks_topics": 2}}}, "TD422"),
        ({"fleet": {"there": {"lacks_clients": 1}}}, "TD423"),
        ({"fleet": {"clients": 3, "shares_keys": False}}, "TD423"),
        ({"fleet": {"there": {"lacks": 4}}}, "TD424"),
        ({"fleet": {"there": {"lacks": 4, "in_force": 8}}}, "TD425"),
        ({"fleet": {"there": {"in_force": 10, "api": ""}}}, "TD425"),
        ({"fleet": {"untold": 1}}, "TD425"),
        ({"state_trouble": "database or disk is full"}, "TD426"),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_told_once_with_a_command(
    wrong: dict[str, Any], code: str | list[str] | None
) -> None:
    found = list(judge(SERVING.checks, list(look(status(**wrong))), Asked()))
    assert [each.code for each in found] == (code if isinstance(code, list) else [code] if code else [])
    for each in found:
        assert each.severity in (Severity.NOTE, Severity.WARNING, Severity.FAULT)
        assert each.cause
        assert each.means
        words = shlex.split(each.fix)
        if words[0] == "tempos" and words[1] != "observe":
            assert parser_of(words[1]).parse_args(words[1:])
        else:
            assert words[0] in ("tempos", "ping", "iptables", "sysctl", "df")


def test_of_a_member_that_is_out_of_its_route_nothing_is_lost() -> None:
    members = [member(1, left_out="refused"), member(2, left_out="refused", in_route=False)]
    here, out = judge(SERVING.checks, list(look(status(members=members))), Asked())
    assert [each.code for each in (here, out)] == ["TD404", "TD404"]
    assert "is lost to it" in here.means
    assert "get its share" in out.means


def test_a_past_loss_says_since_when_it_is_over() -> None:
    (found,) = look(status(name="~", lost=9, members=[], lost_at="2026-01-02T03:04:05+00:00"))
    local = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc).astimezone()
    assert found.subject == "news former groups"
    told = f"9 lost and 0 dropped, of 1,000; over since {local:%Y-%m-%d %H:%M:%S}"
    assert found.cause == f"TD407 losses: {told}"


class Answers(BaseHTTPRequestHandler):
    """A broker's API with a token."""

    answer: Any = None

    def do_GET(self) -> None:
        right = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        answer = {"at": 200.0, "wrong": []} if self.path == "/v1/wrong" else self.answer
        body = json.dumps(answer if right else {"detail": "a token is needed"}).encode()
        self.send_response(200 if right else 401)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_it_asks_with_the_token_and_never_shows_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TEMPOS_TOKEN", raising=False)
    monkeypatch.setattr("tempos.doctor.areas", lambda: [SERVING])
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            for answer, token, code, said in (
                (status(), True, 0, "'b', tempos 1, process 1"),
                (status(policy="fast"), True, 1, "TD403"),
                ({"topics": 3}, True, 1, "not of this version"),
                (status(), False, 1, "asks for a token"),
            ):
                Answers.answer = answer
                options = ["--token-file", str(tmp_path / "token")] if token else []
                for place, form in ((url, []), (url.removeprefix("http://"), ["--json"])):
                    assert main(["doctor", "--api", place, *options, *form]) == code
                    out = capsys.readouterr().out
                    assert said in out
                    assert TOKEN not in out
            monkeypatch.setenv("TEMPOS_API", url.removeprefix("http://"))
            monkeypatch.setenv("TEMPOS_TOKEN", TOKEN)
            Answers.answer = status()
            assert [(each.check, each.had) for each in gather(Asked())] == [("TD401", True)]
            told = dict(archive._api(Asked(), TOKEN))
            assert json.loads(told["api/status.json"]) == status()
            assert told.keys() >= {"api/wrong.json", "api/changes.json"}
        finally:
            monkeypatch.delenv("TEMPOS_TOKEN", raising=False)
            server.shutdown()
            thread.join()
    (tried,) = gather(Asked(api="no:place:this"))
    assert (tried.check, tried.had) == ("TD401", False)
    (tried,) = gather(Asked(api=url))
    assert (tried.check, tried.had) == ("TD401", False)
    monkeypatch.setenv("TEMPOS_API", url)
    assert list[Tried](gather(Asked())) == [], "nobody said that there is one"


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, "since 1970-01-02 03:04:05"),
        ({"before": True}, "since before 1970-01-02 03:04:05"),
        ({"now": False}, "last at 1970-01-02 03:05:05"),
        ({"now": False, "before": True}, "last at 1970-01-02 03:05:05"),
        ({"now": False, "before": True, "changed": 0.0}, "since before 1970-01-02 03:04:05"),
        ({"subject": "another"}, ""),
    ],
)
def test_it_says_since_when_as_far_as_the_broker_knows(known: dict[str, Any], said: str) -> None:
    began = datetime(1970, 1, 2, 3, 4, 5).timestamp()
    row = {"code": "TD403", "subject": "news", "since": began, "changed": began + 60, "now": True,
           "before": False, **known}  # fmt: skip

    class Told:
        def get(self, path: str) -> Any:
            assert path == "/v1/wrong"
            return {"at": began + 90, "wrong": [row]}

    (found,) = look(status(policy="fast"))
    assert timed(found, moments(Told())).cause == (f"off ({said})" if said else "off")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "wrong", "ago", "told"),
    [
        ("TD411", {"overruns": 4}, PAST - 1, "TD411"),
        ("TD411", {"overruns": 4}, PAST, "TD420"),
        ("TD407", {"lost": 9}, PAST, "TD420"),
        ("TD403", {"policy": "fast"}, PAST, "TD403"),
        ("TD415", {"refused": {"no_member": 3}}, PAST, "TD415"),
    ],
)
def test_what_was_counted_once_and_is_over_is_a_note(
    code: str, wrong: dict[str, Any], ago: float, told: str
) -> None:
    """The account keeps it, so without that one overrun would wake people for ever."""
    (found,) = look(status(**wrong))
    row = {"code": code, "subject": found.subject, "since": 1000.0, "changed": 2000.0, "before": False,
           "now": code == "TD403"}  # fmt: skip

    class Told:
        def get(self, path: str) -> Any:
            return {"at": 2000.0 + ago, "wrong": [row]}

    (each,) = judge(SERVING.checks, [timed(found, moments(Told()))], Asked())  # type: ignore[arg-type]
    assert each.code == told
    assert (each.severity in BAD) == (told in ("TD411", "TD403"))
    assert each.fix
    if told == "TD420":
        assert each.cause.startswith(f"{code} ")
        assert f"{found.cause} (last at " in each.cause
        assert each.means == "it is over; the account keeps count"


def test_thousands_of_one_kind_hide_no_other() -> None:
    found = [*(Tried("TD403", False, "slow", f"topic {number}") for number in range(1000)),
             Tried("TD402", False, "drift", "last")]  # fmt: skip
    kept, more = few(found)
    assert [each.subject for each in kept] == [*(f"topic {number}" for number in range(MANY)), "last"]
    assert more == {"TD403": 1000 - MANY}
