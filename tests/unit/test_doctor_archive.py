"""`tempos doctor gather` and `analyze`: what an archive holds, and never does, and reading it elsewhere."""

from __future__ import annotations

import io
import json
import socket
import tarfile
from dataclasses import fields
from pathlib import Path

import pytest

from tempos import LocalError
from tempos.cli.main import main
from tempos.doctor import Area, Asked, Check, Severity, Tried, analyse, archive, areas, gather, host
from tempos.doctor.archive import Gathered, Masked

KEY, TOKEN, PASSWORD = "9f86d081884c7d659a2feaa0c55ad015", "a-token-of-twenty-two", "correct-horse"
CONFIG = f"""
[broker]
listen = ["127.0.0.1"]
name = "gathered"
api_token = "{TOKEN}"
[fastpath]
mode = "off"
[[topic]]
id = 1
name = "alarms"
[[client]]
id = "sensor-1"
key = '{KEY}'
publish = ["alarms"]
"""
CHECK = Check("TD901", "thing", Severity.WARNING, "it is slow", "mend it")


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as packed:
        found = {}
        for entry in packed:
            file = packed.extractfile(entry)
            assert file is not None
            found[entry.name.removeprefix("tempos-doctor/")] = file.read().decode()
        return found


def test_what_was_gathered_is_judged_elsewhere_as_it_would_be_here(tmp_path: Path) -> None:
    area = Area(
        "things", (CHECK,), lambda asked: (Tried("TD901", False, "gone", "eth0"), Tried("TD901", True))
    )
    here = gather([area], Asked(interfaces=("eth0",), ports=(9998,)))
    archive.write(here, tmp_path / "a.tar.gz", log="", token="")
    read = archive.read(tmp_path / "a.tar.gz")
    assert read == here
    assert analyse([area], read) == analyse([area], here)
    assert analyse([area], read).bad
    # A version that does not know the check yet.
    assert {each.severity for each in analyse([], read).findings} == {Severity.UNKNOWN, Severity.OK}


def test_no_secret_is_in_any_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, log, made = tmp_path / "broker.toml", tmp_path / "broker.log", tmp_path / "a.tar.gz"
    config.write_text(CONFIG)
    log.write_text(f"x {KEY} y\nAuthorization: Bearer {TOKEN}-other\nmqtt://me:{PASSWORD}@h/t\nthe rest\n")
    order = ["doctor", "gather", "-c", str(config), "--log-file", str(log), "-o", str(made),
             "--api", "http://127.0.0.1:1"]  # fmt: skip
    assert main(order) == 0
    assert "secrets masked" in capsys.readouterr().out
    assert made.stat().st_mode & 0o777 == 0o600
    files = contents(made)
    assert {"doctor.json", "config.toml", "log.txt", "api/status.json", "host/uname-a.txt"} <= files.keys()
    for secret in (KEY, TOKEN, PASSWORD):
        assert not [name for name, text in files.items() if secret in text]
    assert f'key = "{archive.MASK}"' in files["config.toml"]
    assert 'name = "alarms"' in files["config.toml"]
    assert "the rest" in files["log.txt"]
    assert "error" in json.loads(files["api/status.json"]), "why it is not there"
    assert main(["doctor", "analyze", str(made), "--json"]) in (0, 1)
    document = json.loads(capsys.readouterr().out)
    assert {"host", "configuration"} <= {area["name"] for area in document["areas"]}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('key = "abc"', f'key = "{archive.MASK}"'),
        ("  #api_token = 'abc' # said", f'  #api_token = "{archive.MASK}" # said'),
        ('{"client": "a", "key": "b"}', f'{{"client": "a", "key": "{archive.MASK}"}}'),
        ('key = """a\nb"""', f'key = "{archive.MASK}"'),
        ("redis://u:pw@host", f"redis://u:{archive.MASK}@host"),
        ("authorization: bearer xyz", f"authorization: bearer {archive.MASK}"),
        ('api_token_file = "/etc/token"', 'api_token_file = "/etc/token"'),
        ('monkeys = 3\nname = "key"', 'monkeys = 3\nname = "key"'),
    ],
)
def test_what_is_masked(text: str, masked: str) -> None:
    assert Masked().mask(text) == masked


def packed(path: Path, name: str, text: str) -> Path:
    with tarfile.open(path, "w:gz") as archived:
        entry = tarfile.TarInfo(name)
        entry.size = len(text)
        archived.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"gathered": 99}', '{"gathered": 1, "machine": 1, "asked": {}}']
)
def test_what_is_no_archive_is_refused_in_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(LocalError, match=r"is no archive of `tempos doctor gather`"):
        archive.read(packed(tmp_path / "a.tar.gz", "tempos-doctor/doctor.json", text))
    (tmp_path / "b").write_bytes(b"nothing of the kind")
    for other in (tmp_path / "b", packed(tmp_path / "c", "else", text)):
        with pytest.raises(LocalError, match="is no archive"):
            archive.read(other)


def test_an_archive_that_cannot_be_read_is_told_as_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "analyze", str(tmp_path / "gone.tgz")]) == 1
    assert capsys.readouterr().err.endswith("gone.tgz cannot be read: No such file or directory\n")


def test_the_host_is_told_of_by_checks_that_there_are() -> None:
    known = {check.code for check in host.HOST.checks}
    tried = list(host.gather(Asked(listen=("127.0.0.1",), state="off")))
    assert {each.check for each in tried} <= known
    assert {"TD502", "TD503", "TD504"} <= {each.check for each in tried}
    assert host.HOST in areas()


def test_segmentation_is_tried_and_a_kernel_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [(each.subject, each.had) for each in host._segmentation()] == [
        ("sending", True),
        ("receiving", True),
    ]
    monkeypatch.setattr(host, "_UDP_GRO", host._UDP_SEGMENT)
    assert [each.had for each in host._segmentation()] == [True, False]
    monkeypatch.setattr(host, "_UDP_SEGMENT", 9999)
    (found,) = host._segmentation()
    assert (found.had, found.subject) == (False, "sending")


def test_a_port_that_another_program_has_is_told_with_its_name() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        (found,) = [
            each for each in host.gather(Asked(listen=("127.0.0.1",), ports=(port,))) if each.check == "TD505"
        ]
    assert found.subject == str(port)
    assert found.cause.startswith("process ")
    (free,) = [
        each for each in host.gather(Asked(listen=("127.0.0.1",), ports=(port,))) if each.check == "TD505"
    ]
    assert (free.had, free.cause) == (True, "free")


def test_an_area_that_fails_is_told_and_hides_no_other() -> None:
    def fail(_asked: Asked) -> tuple[Tried, ...]:
        raise FileNotFoundError("/sys is not there")

    other = Area("other", (CHECK,), lambda asked: (Tried("TD901", True),))
    found = analyse([other], gather([Area("broken", (), fail), other], Asked()))
    assert [(each.code, each.severity) for each in found.findings] == [
        ("TD009", Severity.WARNING),
        ("TD901", Severity.OK),
    ]
    assert "broken: /sys is not there" in found.findings[0].cause


def test_an_archive_has_room_for_every_field() -> None:
    gathered = Gathered({}, Asked(), (("a", (Tried("TD001", None),)),))
    document = archive._document(gathered)
    assert set(document["asked"]) == {each.name for each in fields(Asked)}
