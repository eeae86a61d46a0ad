"""What is given to the user a broker becomes, what is not, and what is said of secrets that lie open."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import pwd
from pathlib import Path

import pytest

from tempos import RemoteError, Topic, Unavailable, _places
from tempos.cli.api import Api, add_api
from tempos_broker import belongings, exposure
from tempos_broker.config.model import BrokerConfig, ClientConfig, ControlConfig, TopicConfig
from tempos_broker.privileges import User
from tempos_daemon.token import read_token, tell_all_open

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give anything away"
)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /run/tempos."""
    monkeypatch.setattr(_places, "SYSTEM", tmp_path / "run")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "run"


def nobody() -> User:
    entry = pwd.getpwnam("nobody")
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


@needs_root
def test_only_plain_files_in_the_folder_of_the_name_are_given(system: Path, tmp_path: Path) -> None:
    secret, doubled = tmp_path / "secret", tmp_path / "doubled"
    for path in (secret, doubled):
        path.write_text("")
    mine, others = system / "a", system / "b"
    for folder in (mine, others):
        folder.mkdir(parents=True)
        (folder / "state.db").write_text("")
    (mine / "link").symlink_to(secret)
    (mine / "hard").hardlink_to(doubled)
    os.mkfifo(mine / "pipe")
    (mine / "folder").mkdir()
    # As earlier versions left it.
    os.chown(system, nobody().uid, nobody().gid)
    system.chmod(0o700)
    belongings.give("a", nobody())
    given = {path for path in (tmp_path, *tmp_path.rglob("*")) if path.lstat().st_uid == nobody().uid}
    assert given == {mine, mine / "state.db"}
    assert [path.stat().st_mode & 0o777 for path in (system, mine)] == [0o755, 0o755]


@needs_root
def test_nothing_is_taken_from_who_holds_any_of_it(system: Path) -> None:
    belongings.give("a", nobody())
    lock = system / "a" / "17.fastpath.lock"
    lock.write_text("")
    with lock.open("rb+") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _places.WHOLE_FILE)
        with pytest.raises(Unavailable, match="in use by a broker that runs as another user"):
            belongings.give("a", nobody())
        assert lock.stat().st_uid == 0
    belongings.give("a", nobody())
    assert lock.stat().st_uid == nobody().uid


def test_the_usual_place_is_this_users_and_what_lay_elsewhere_moves_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the machine's own cannot be had, as for everybody but root.
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(_places, "SYSTEM", tmp_path / "file" / "tempos")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert belongings.usual_state("a") is None
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    former = tmp_path / "tempos" / "a.db"
    former.parent.mkdir()
    for ending in ("", "-wal", "-tickets"):
        Path(f"{former}{ending}").write_text(f"old{ending}")
    place = tmp_path / "tempos" / "a" / "state.db"
    assert belongings.usual_state("a") == place
    assert [Path(f"{place}{ending}").read_text() for ending in ("", "-wal", "-tickets")] == [
        "old", "old-wal", "old-tickets"]  # fmt: skip
    former.write_text("of another broker")
    assert belongings.usual_state("a") == place
    assert place.read_text() == "old"


@pytest.mark.parametrize(
    ("secret", "mode", "said"),
    [
        (True, 0o600, ""),
        (True, 0o640, ""),
        (True, 0o644, "who can read it (mode 0644): chmod 600"),
        (True, 0o666, "who can read and change it (mode 0666): chmod 600"),
        (False, 0o644, ""),
        (False, 0o664, "who can change it (mode 0664): chmod 644"),
    ],
)
def test_it_is_said_where_secrets_lie_open_or_others_can_change_the_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, secret: bool, mode: int, said: str
) -> None:
    caplog.set_level(logging.WARNING)
    file = tmp_path / "b.toml"
    file.write_text("")
    file.chmod(mode)
    clients = (ClientConfig("c", bytes(16)),) if secret else ()
    config = BrokerConfig((TopicConfig(Topic(1, "t")),), control=ControlConfig(clients=clients))
    exposure.tell(file, config)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == bool(said)
    assert all(said in text and str(file) in text for text in texts)


def test_the_same_is_said_of_every_daemon_s_files_and_each_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING)

    def make(name: str, text: str, mode: int) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def said() -> list[str]:
        texts = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return texts

    log = logging.getLogger("test")
    token = make("token", "t" * 32, 0o644)
    for _ in range(2):
        assert read_token(str(token), "trigger.api_token_file") == "t" * 32
    (text,) = said()
    assert text.startswith(f"trigger.api_token_file {token} is open to others, who can read it (mode 0644)")
    token.chmod(0o600)
    read_token(str(token), "trigger.api_token_file")
    token.chmod(0o666)
    read_token(str(token), "trigger.api_token_file")
    assert [text for text in said() if "read and change" in text], "it was right in between"
    private = make("private.pem", "", 0o604)
    secrets = f"[[endpoint]]\npassword = 'p'\n[endpoint.tls]\nkey = '{private}'\n"
    tell_all_open(make("with.toml", secrets, 0o644), log)
    assert [text.partition(" is open")[0] for text in said()] == [
        f"the file that a key is in, {private}",
        f"the configuration, with secrets in it, {tmp_path / 'with.toml'}",
    ]
    tell_all_open(make("hexadecimal.toml", "[[client]]\nkey = '" + "0a" * 16 + "'", 0o604), log)
    assert len(said()) == 1
    tell_all_open(make("without.toml", "[trigger]\napi = '127.0.0.1:1'", 0o644), log)
    tell_all_open(tmp_path / "absent.toml", log)
    assert not said()
    with pytest.raises(RemoteError):
        Api.of(parsed("--api", "127.0.0.1:1", "--token-file", str(token)), 0.1).get("/v1/ready")
    assert f"the token file {token} is open to others" in capsys.readouterr().err


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_api(parser)
    return parser.parse_args(words)
