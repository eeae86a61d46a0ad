"""What one machine knows, for somebody elsewhere: an archive without secrets, and reading it again.

    doctor.json   what was tried, area by area, before anybody judged it; and on what machine
    config.toml   the configuration, every secret in it masked
    api/          status, ledger, readiness and topics of the broker that runs; what was wrong, and changed
    log.txt       the end of its log
    host/         what the host's own tools say

Rules: a value whose key speaks of a key, token, secret or password is masked where it stands, and its text in
every other file as well; files are bounded; an archive is read in memory, and nothing of it is run.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tempos._files import write_whole
from tempos.cli.api import Api
from tempos.doctor.findings import Asked, Tried
from tempos.doctor.programs import located
from tempos.doctor.serving import url_of
from tempos.errors import LocalError, RemoteError, one_line

FORMAT = 1
#: Bytes of a file in the archive, and of all that is read of one.
LARGEST, WHOLE = 8 << 20, 256 << 20
LOG_TAIL = 512 << 10
MASK = "(masked)"
_LIMIT = 15.0
_SECRET = re.compile(
    r"""(?P<key>["']?[\w.-]*(?:key|token|secret|password|passphrase)["']?\s*[=:]\s*)"""
    r"(?P<value>\"{3}.*?\"{3}|'{3}.*?'{3}|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*')",
    re.IGNORECASE | re.DOTALL,
)
_BEARER = re.compile(r"(?P<key>Bearer\s+)(?P<value>[^\s\"',]+)", re.IGNORECASE)
_IN_URL = re.compile(r"(?P<key>\w+://[^\s/@:\"']*:)(?P<value>[^\s/@\"']+)(?=@)")
#: Shorter ones are no secrets, and might be words.
_SHORTEST = 8
_DOCUMENTS = ("status", "ledger", "ready", "topics", "wrong", "changes")
_COMMANDS = (
    "uname -a", "nproc", "ip -d -s address", "ip route show table all", "ip rule", "ip neigh",
    "ip -d xfrm policy", "ss -uanpm", "tc -s qdisc", "nft list ruleset", "iptables-save", "bpftool net",
    "bpftool prog", "sysctl net.core net.ipv4.conf net.ipv4.ip_forward kernel.sched_rt_runtime_us",
    "chronyc tracking", "timedatectl", "findmnt -t bpf,cgroup2", "df -h", "free -m", "tempos fastpath list",
)  # fmt: skip
_CARD = ("ethtool -i", "ethtool -k", "ethtool -g", "ethtool -l", "ethtool -c", "ethtool -S")
_READ = (
    "/proc/net/softnet_stat", "/proc/net/snmp", "/proc/net/netstat", "/proc/pressure/cpu",
    "/proc/self/status",
    "/etc/os-release",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was tried, by area in the order of looking, and on what machine."""

    machine: dict[str, str]
    asked: Asked
    tried: tuple[tuple[str, tuple[Tried, ...]], ...]


class Masked:
    """Masks secrets, and remembers them for what is masked later."""

    def __init__(self, *known: str) -> None:
        self._known = {each for each in known if len(each) >= _SHORTEST}

    def learn(self, text: str) -> None:
        """Take in the secrets that a text assigns."""
        for found in (*_SECRET.finditer(text), *_IN_URL.finditer(text), *_BEARER.finditer(text)):
            self._known.add(found["value"].strip("\"'"))
        self._known = {each for each in self._known if len(each) >= _SHORTEST}

    def mask(self, text: str) -> str:
        """The text without any secret that it assigns, or that is known."""
        text = _SECRET.sub(lambda found: f'{found["key"]}"{MASK}"', text)
        for pattern in (_IN_URL, _BEARER):
            text = pattern.sub(lambda found: found["key"] + MASK, text)
        for each in sorted(self._known, key=len, reverse=True):
            text = text.replace(each, MASK)
        return text


def write(found: Gathered, target: Path, *, log: str, token: str) -> list[str]:
    """Write the archive; the names in it. Raises :class:`LocalError` if it cannot be written."""
    masked = Masked(token)
    config = _text(Path(found.asked.config)) if found.asked.config else ""
    masked.learn(config)
    files = {"doctor.json": json.dumps(_document(found), indent=1)}
    if config:
        files["config.toml"] = config
    files |= dict(_api(found.asked, token))
    files["log.txt"] = _log(log)
    files |= dict(_host())
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in files.items():
            content = masked.mask(text).encode()[:LARGEST]
            entry = tarfile.TarInfo(f"tempos-doctor/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(content))
    try:
        # Whoever reads it is chosen by whoever gathered.
        write_whole(target, made.getvalue(), 0o600)
    except OSError as error:
        raise LocalError(f"{target} cannot be written: {one_line(error)}") from error
    return list(files)


def read(source: Path) -> Gathered:
    """What an archive holds for the doctor. Raises :class:`LocalError` for what is none."""
    try:
        with tarfile.open(source, "r:gz") as archive:
            total = 0
            for entry in archive:
                total += entry.size
                if total > WHOLE:
                    raise LocalError(
                        f"{source} holds more than {WHOLE >> 20} MB; that is no archive of the doctor"
                    )
                if entry.name == "tempos-doctor/doctor.json" and entry.isfile() and entry.size <= LARGEST:
                    file = archive.extractfile(entry)
                    assert file is not None
                    return _gathered(json.loads(file.read()))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise LocalError(f"{source} cannot be read: {error.strerror}") from error
    except (OSError, tarfile.TarError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LocalError(f"{source} is no archive of `tempos doctor gather`: {one_line(error)}") from error
    raise LocalError(f"{source} is no archive of `tempos doctor gather`: there is no doctor.json in it")


def _document(found: Gathered) -> dict[str, Any]:
    return {
        "gathered": FORMAT,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": found.machine,
        "asked": asdict(found.asked),
        "areas": [{"name": name, "tried": [asdict(each) for each in tried]} for name, tried in found.tried],
    }


def _gathered(document: Mapping[str, Any]) -> Gathered:
    if document["gathered"] != FORMAT:
        raise ValueError(f"its format is {document['gathered']!r}, this version reads {FORMAT}")
    asked = {
        each.name: document["asked"][each.name] for each in fields(Asked) if each.name in document["asked"]
    }
    lists = {name: tuple(value) for name, value in asked.items() if isinstance(value, list)}
    known = {each.name for each in fields(Tried)}
    return Gathered(
        {**dict.fromkeys(("tempos", "python", "system", "kernel", "machine", "distribution", "user"), "?"),
         **{str(name): str(value) for name, value in document["machine"].items()}},
        Asked(**{**asked, **lists}),
        tuple(
            (str(area["name"]), tuple(Tried(**{name: each[name] for name in each.keys() & known})
                                      for each in area["tried"]))
            for area in document["areas"]
        ),
    )  # fmt: skip


def _api(asked: Asked, token: str) -> Iterator[tuple[str, str]]:
    """The documents of a broker that answers, else why there are none."""
    for name in _DOCUMENTS:
        try:
            told = Api(url_of(asked), token, _LIMIT).get(f"/v1/{name}")
            yield f"api/{name}.json", json.dumps(told, indent=1)
        except (LocalError, RemoteError) as error:
            yield f"api/{name}.json", json.dumps({"error": one_line(error)})


def _log(file: str) -> str:
    """The end of a log: of a file, else of the service's journal."""
    if file:
        try:
            with Path(file).open("rb") as opened:
                opened.seek(max(0, opened.seek(0, os.SEEK_END) - LOG_TAIL))
                return opened.read().decode(errors="replace")
        except OSError as error:
            raise LocalError(f"the log {file} cannot be read: {one_line(error)}") from error
    return _said("journalctl --no-pager -n 2000 -u tempos-broker -u tempos-controller")


def _host() -> Iterator[tuple[str, str]]:
    for command in _COMMANDS:
        yield f"host/{re.sub(r'[^a-z0-9]+', '-', command.lower())[:40].strip('-')}.txt", _said(command)
    cards = [name for _, name in socket.if_nameindex() if name != "lo"]
    for card in sorted(cards)[:16]:
        yield f"host/card-{card}.txt", "\n".join(_said(f"{command} {card}") for command in _CARD)
    for path in _READ:
        yield f"host/{path.strip('/').replace('/', '-')}.txt", _text(Path(path))


def _said(command: str) -> str:
    """A command, what it printed, and how it ended."""
    words = command.split()
    if (program := located(words[0])) is None:
        return f"$ {command}\n({words[0]} is not installed)\n"
    try:
        done = subprocess.run(
            [program, *words[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"$ {command}\n({one_line(error)})\n"
    return f"$ {command}\n{done.stdout}{done.stderr}(exit code {done.returncode})\n"


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST).decode(errors="replace")
    except OSError as error:
        return f"({one_line(error)})\n"
