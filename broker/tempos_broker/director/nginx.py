"""nginx's stream module: servers that listen for datagrams, and the upstream that each hands them to.

    stream {
        upstream flows { hash $remote_addr; server 10.0.2.11:2055 weight=2; server 10.0.2.12:2055; }
        server { listen 2055 udp; proxy_pass flows; proxy_bind $remote_addr transparent; }
    }

crossplane (extra ``director``) reads the files, with all that they include.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import gcd
from pathlib import Path
from typing import Any

from tempos_broker.config.layout import MAX_WEIGHT
from tempos_broker.director.found import (
    Collector,
    Copy,
    Found,
    Listener,
    Unreadable,
    addresses_of,
    network_of,
    port_of,
)
from tempos_daemon.kinds import ANY_ADDRESS

_SENDER = {"$remote_addr", "$binary_remote_addr"}
_PORT = "$remote_port"
#: Of a server, what means nothing where nobody answers, or is the broker's own affair.
_SETTLED = {
    "listen", "proxy_pass", "proxy_bind", "proxy_responses", "proxy_timeout", "proxy_requests",
    "proxy_buffer_size", "allow", "deny", "proxy_connect_timeout", "access_log", "error_log", "server_name",
}  # fmt: skip
_CHOICES = {"hash", "random", "least_conn"}
#: Of an upstream's server, what health of collectors stands for.
_HEALTH = ("max_fails=", "fail_timeout=", "max_conns=", "slow_start=")
#: Where crossplane fails without a word.
_UNREAD = "it ends amid a directive: a ; is missing"
Directive = dict[str, Any]


def read(path: Path, ports: tuple[int, ...], keep: bool) -> Found:
    """A configuration with its includes; ``ports``: of these alone; ``keep``: whatever it says."""
    found = Found()
    top = _directives(path)
    inside = [each for each in top if each["directive"] == "stream"]
    # A file that another one includes has no frame of its own.
    blocks = [block for each in inside for block in each["block"]] if inside else top
    upstreams = {each["args"][0]: each for each in blocks if each["directive"] == "upstream" and each["args"]}
    for server in blocks:
        if server["directive"] == "server":
            _server(server, upstreams, ports, keep, found)
    return found


def _directives(path: Path) -> list[Directive]:
    try:
        import crossplane
    except ImportError as error:
        raise Unreadable("nginx's files are read by crossplane: pip install 'tempos[director]'") from error
    try:
        payload = crossplane.parse(str(path), combine=True, check_ctx=False, check_args=False)
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read: {error.strerror or error}") from error
    problems = [f"{each['file']}:{each.get('line') or '?'}: {each['error'] or _UNREAD}"
                for each in payload["errors"]]  # fmt: skip
    if problems:
        raise Unreadable("\n".join(problems))
    return [each for config in payload["config"] for each in config["parsed"]]


def _server(
    server: Directive, upstreams: dict[str, Directive], wanted: tuple[int, ...], keep: bool, found: Found
) -> None:
    ports = [
        port for each in _of(server, "listen") if "udp" in each["args"][1:] for port in _ports(each, found)
    ]
    ports = [port for port in ports if not wanted or port in wanted]
    if not ports:
        return
    passes = next(iter(_of(server, "proxy_pass")), None)
    if passes is None:
        found.left_out.append(f"{_where(server)}: server without proxy_pass: it hands nothing on")
        return
    if not any(each["args"][0] == "0" for each in _of(server, "proxy_responses")):
        found.remarks.append(f"{_where(server)}: answers of collectors are not handed back to senders.")
    sources = _allowed(server, found)
    for each in server["block"]:
        if each["directive"] not in _SETTLED:
            found.left_out.append(f"{_where(each)}: {each['directive']} {' '.join(each['args'])}".rstrip())
    target = passes["args"][0]
    upstream = upstreams.get(target)
    try:
        if upstream is None:
            pick, collectors = "turn", _hosts(target)
        else:
            pick, collectors = _pick(upstream, found), list(_collectors(upstream, found))
    except ValueError as error:
        found.left_out.append(f"{_where(passes)}: proxy_pass {target}: {error}")
        return
    if pick == "turn" and any(each.weight > 1 for each in collectors):
        found.left_out.append(f"{_where(upstream or server)}: weights: members have their turns alike; "
                              "with hash $remote_addr they would hold")  # fmt: skip
    name = target if upstream or len(collectors) > 1 else str(collectors[0])
    keep = keep or any(each["args"][0].startswith("$remote_addr") for each in _of(server, "proxy_bind"))
    if pick != "turn":
        collectors = _lighter(collectors, _where(upstream or server), found)
    copy = Copy(name, tuple(collectors), keep=keep, where=_where(upstream or passes))
    found.listeners.append(Listener(tuple(ports), [copy], pick, sources, _where(server)))


def _allowed(server: Directive, found: Found) -> tuple[str, ...]:
    """The networks that alone are let in; none: all are, or what is said is more than that."""
    rules = [each for each in server["block"] if each["directive"] in ("allow", "deny")]
    *allowed, last = rules or [None]
    try:
        if last is None or (last["args"] == ["all"] and not allowed and last["directive"] == "allow"):
            return ()
        if last["args"] == ["all"] and allowed and all(each["directive"] == "allow" for each in allowed):
            return tuple(str(network_of(each["args"][0])) for each in allowed)
    except ValueError as error:
        found.left_out.append(f"{_where(last)}: allow: {error}")
        return ()
    where = _where(rules[0])
    found.left_out.append(f"{where}: allow and deny: only networks that alone are allowed can be said")
    return ()


def _ports(listen: Directive, found: Found) -> Iterable[int]:
    address, _, port = listen["args"][0].rpartition(":")
    if address.startswith("["):
        found.left_out.append(f"{_where(listen)}: listen {listen['args'][0]}: of IPv6; tempos serves IPv4")
        return ()
    if address not in ("", "*", ANY_ADDRESS):
        what = f"the address of listen {listen['args'][0]}"
        found.left_out.append(
            f"{_where(listen)}: {what}: a broker takes a topic's ports at every broker.listen"
        )
    first, _, last = port.partition("-")
    try:
        return range(port_of(first), port_of(last or first) + 1)
    except ValueError as error:
        found.left_out.append(f"{_where(listen)}: listen: {error}")
        return ()


def _pick(upstream: Directive, found: Found) -> str:
    choice = next((each for each in upstream["block"] if each["directive"] in _CHOICES), None)
    if choice is None:
        return "turn"
    key = choice["args"][0] if choice["args"] else ""
    if choice["directive"] == "hash":
        if key in _SENDER:
            return "source"
        if _PORT in key and key.replace(_PORT, "").strip(":-") in _SENDER:
            return "source-port"
    found.left_out.append(f"{_where(choice)}: {choice['directive']} {' '.join(choice['args'])}".rstrip()
                          + ": members have their turns")  # fmt: skip
    return "turn"


def _collectors(upstream: Directive, found: Found) -> Iterator[Collector]:
    servers = [each for each in _of(upstream, "server") if "down" not in each["args"]]
    for each in servers:
        if "backup" in each["args"]:
            found.left_out.append(
                f"{_where(each)}: server {each['args'][0]} backup: no member waits for others to fail"
            )
            continue
        weight = 1
        for option in each["args"][1:]:
            if option.startswith("weight="):
                weight = _weight(option.removeprefix("weight="))
            elif not option.startswith(_HEALTH):
                found.left_out.append(f"{_where(each)}: {option} of server {each['args'][0]}")
        yield from _hosts(each["args"][0], weight)


def _weight(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise ValueError(f"weight={text} is no weight")
    return int(text)


def _lighter(collectors: list[Collector], where: str, found: Found) -> list[Collector]:
    """Of the same weights beside each other, as near as those of members come to it."""
    unit = gcd(*(each.weight for each in collectors))
    most = max((each.weight for each in collectors), default=1)
    if most // unit <= MAX_WEIGHT:
        return [replace(each, weight=each.weight // unit) for each in collectors]
    lighter = [replace(each, weight=max(1, round(each.weight * MAX_WEIGHT / most))) for each in collectors]
    found.left_out.append(f"{where}: weights: as near as members come to it, who weigh 1 to {MAX_WEIGHT}: "
                          + ", ".join(f"{each} {each.weight}" for each in lighter))  # fmt: skip
    return lighter


def _hosts(text: str, weight: int = 1) -> list[Collector]:
    """A server; of a name all addresses that it has, as nginx does."""
    if text.startswith("["):
        raise ValueError(f"{text} is of IPv6; tempos serves IPv4")
    if text.startswith(("unix:", "$")):
        raise ValueError(f"{text} is no address and port")
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text} has no port, and is no upstream")
    return [Collector(each, port_of(port), weight) for each in addresses_of(host)]


def _of(block: Directive, name: str) -> Iterator[Directive]:
    return (each for each in block["block"] if each["directive"] == name and each["args"])


def _where(directive: Directive) -> str:
    return f"{directive.get('file', '?')}:{directive['line']}"
