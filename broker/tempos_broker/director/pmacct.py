"""pmacct's tee (nfacctd, sfacctd): a map of pools of receivers, and one of tags by sender.

    plugins: tee[a]                      id=1 ip=192.0.2.1:2100,192.0.2.2:2100 balance-alg=hash-agent tag=100
    tee_receivers[a]: tee_receivers.lst  set_tag=100 ip=10.1.0.0/16
    pre_tag_map: pretag.map

A datagram goes to every pool that its tag is meant for: to all receivers of it, or with ``balance-alg`` to
one. The first line of the map of tags that fits gives the tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from tempos_broker.director.found import (
    EVERYBODY,
    Collector,
    Copy,
    Found,
    Listener,
    Unreadable,
    address_of,
    lines_of,
    network_of,
    port_of,
)

#: Where each daemon listens if nothing is said.
DAEMONS = {"nfacctd": 2100, "sfacctd": 6343}
_KEY = re.compile(r"([\w-]+)(?:\[(\w+)\])?\s*:\s*(.*)")
_PLUGIN = re.compile(r"tee(?:\[(\w+)\])?")
_FILTERS = ("pre_tag_filter", "pre_tag2_filter", "pre_tag_label_filter")
#: How a receiver is chosen, and what of `pick` is nearest.
_BALANCE = {"rr": "turn", "hash-agent": "source", "hash-crc32": "source", "hash-tag": "source"}


@dataclass(frozen=True, slots=True)
class _Tag:
    """A line of the map of tags: these senders get this tag."""

    tag: int
    network: IPv4Network


def read(path: Path, ports: tuple[int, ...], keep: bool) -> Found:
    """A daemon's configuration with the maps that it names; ``ports``, ``keep``: instead of what it says."""
    settings, found = _settings(path), Found()
    daemon = next((each for each in DAEMONS if any(key.startswith(each) for key, _ in settings)), "nfacctd")
    text = settings.get((f"{daemon}_port", ""))
    try:
        listener = Listener(ports or ((port_of(text) if text else DAEMONS[daemon]),), where=str(path))
    except ValueError as error:
        raise Unreadable(f"{path}: {daemon}_port: {error}") from error
    if address := settings.get((f"{daemon}_ip", "")):
        found.left_out.append(
            f"{path}: {daemon}_ip ({address}): a broker takes a topic's ports at every broker.listen"
        )
    matches = (_PLUGIN.fullmatch(each.strip()) for each in settings.get(("plugins", ""), "").split(","))
    plugins = [match[1] or "" for match in matches if match]
    if not plugins:
        raise Unreadable(f"{path}: no plugin tee: not a configuration that copies datagrams")
    found.listeners.append(listener)
    picks: set[str] = set()
    for plugin in plugins:
        _plugin(path, plugin, settings, keep, listener, picks, found)
    if picks - {"turn"}:
        listener.pick = "source"
        if "turn" in picks:
            found.remarks.append(
                "Some pools take turns, some go by the sender; all of a port's go by the sender here."
            )
    return found


def _settings(path: Path) -> dict[tuple[str, str], str]:
    """By key and plugin; "" stands for all of them."""
    settings = {}
    for _, line in lines_of(path, "!#"):
        if match := _KEY.fullmatch(line):
            key, plugin, value = match.groups()
            settings[key, plugin or ""] = value.strip()
    return settings


def _plugin(
    path: Path,
    plugin: str,
    settings: Mapping[tuple[str, str], str],
    keep: bool,
    listener: Listener,
    picks: set[str],
    found: Found,
) -> None:
    def setting(key: str) -> str:
        return settings.get((key, plugin), settings.get((key, ""), ""))

    if not (receivers := setting("tee_receivers")):
        found.left_out.append(f"{path}: plugin tee[{plugin}] names no tee_receivers")
        return
    for key in _FILTERS:
        if setting(key):
            found.left_out.append(
                f"{path}: {key} of tee[{plugin}]: its pools get all that their own tags say"
            )
    tags = list(_tags(_beside(path, setting("pre_tag_map")), found)) if setting("pre_tag_map") else []
    keep = keep or setting("tee_transparent") == "true"
    prefix = f"{plugin}-" if plugin else ""
    place = _beside(path, receivers)
    for number, line in lines_of(place, "!#"):
        where = f"{place}:{number}"
        values = dict(_pairs(line))
        try:
            copies, balance = _pool(values, prefix, tags, keep, where)
        except ValueError as error:
            found.left_out.append(f"{where}: {error}")
            continue
        if balance and len(copies[0].collectors) > 1:
            picks.add(_BALANCE[balance])
            if balance == "hash-tag":
                found.remarks.append(
                    f"{where}: a sender's collector follows from its address, not from its tag."
                )
        if "src_port" in values:
            found.left_out.append(f"{where}: src_port: datagrams leave from the broker's data port")
        listener.copies += copies


def _pool(
    values: Mapping[str, str], prefix: str, tags: list[_Tag], keep: bool, where: str
) -> tuple[list[Copy], str | None]:
    for key in ("kafka_broker", "zmq_address"):
        if key in values:
            raise ValueError(f"{key}: datagrams go to collectors over UDP; see `tempos export` for others")
    if not values.get("ip") or not values.get("id"):
        raise ValueError("a pool needs id and ip")
    balance = values.get("balance-alg")
    if balance is not None and balance not in _BALANCE:
        raise ValueError(f"balance-alg {balance}: not known; known: {', '.join(_BALANCE)}")
    collectors = tuple(_collector(each) for each in values["ip"].split(","))
    sources = frozenset({EVERYBODY}) if "tag" not in values else _senders(values["tag"], tags)
    name = f"{prefix}pool-{values['id']}"
    if balance or len(collectors) == 1:
        return [Copy(name, collectors, sources, keep=keep, where=where)], balance
    copies = [Copy(f"{name}-{each}", (each,), sources, keep=keep, where=where) for each in collectors]
    return copies, None


def _collector(text: str) -> Collector:
    if text.startswith("["):
        raise ValueError(f"{text} is of IPv6; tempos serves IPv4")
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text} has no port")
    return Collector(address_of(host), port_of(port))


def _senders(wanted: str, tags: list[_Tag]) -> frozenset[IPv4Network]:
    """Whose tags are wanted; raises ValueError where networks cannot say that."""
    ranges = []
    for part in wanted.split(","):
        if not (match := re.fullmatch(r"(\d+)(?:-(\d+))?", part)):
            raise ValueError(f"tag={wanted}: of tags only those wanted can be said, not those unwanted")
        ranges.append(range(int(match[1]), int(match[2] or match[1]) + 1))
    chosen: set[IPv4Network] = set()
    for at, each in enumerate(tags):
        if not any(each.tag in some for some in ranges):
            continue
        # The first line that fits gives the tag.
        before = [other.network for other in tags[:at] if not any(other.tag in some for some in ranges)]
        if any(each.network.subnet_of(network) for network in before):
            continue
        if inside := next((network for network in before if network.overlaps(each.network)), None):
            raise ValueError(f"tag={wanted}: {inside} has another tag, and is a part of {each.network}")
        chosen.add(each.network)
    if not chosen:
        raise ValueError(f"tag={wanted}: no sender gets such a tag by its address alone")
    return frozenset(chosen)


def _tags(path: Path, found: Found) -> Iterator[_Tag]:
    for number, line in lines_of(path, "!#"):
        values = dict(_pairs(line))
        tag, where = values.pop("set_tag", values.pop("id", None)), values.pop("ip", "0.0.0.0/0")
        try:
            if tag is None or not tag.isdigit():
                raise ValueError("no set_tag with a number")
            if values:
                raise ValueError(f"{', '.join(values)}: senders are told apart by their addresses alone")
            yield _Tag(int(tag), network_of(where))
        except ValueError as error:
            found.left_out.append(f"{path}:{number}: {error}")


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    for each in line.split():
        key, _, value = each.partition("=")
        yield key, value


def _beside(path: Path, name: str) -> Path:
    """As the daemon finds it, else beside its configuration, where it was copied with it."""
    there = Path(name)
    beside = path.parent / there.name
    return there if there.exists() or not beside.exists() else beside
