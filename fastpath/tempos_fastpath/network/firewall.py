"""What the host's firewall would do with events, had the fast path not taken them before.

An XDP program runs before nftables and iptables see a packet, and what it sends they never see; so rules that
keep somebody from the data port, or events from leaving, keep nobody from the fast path, and addresses that
they change are not changed. This reads the rules: where they let nothing through, topics take the slow path;
what hangs on more is told. Rules: what is said to be dropped is dropped, whoever sends it, as long as
it is nobody that was answered before; whatever hangs on more than the port is said to be possible, and so is
all that could not be read, and every change of addresses, for it may change nothing. Blocking; in the network
namespace of the thread that asks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tempos.doctor.programs import located

#: Seconds that the tool may take.
_LIMIT = 5.0
#: NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN and GETGEN; struct nlmsghdr and nfgenmsg.
_NETFILTER, _NFTABLES, _GETCHAIN, _GETGEN = 12, 10 << 8, 4, 16
_HEADER, _FAMILY, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBH"), struct.Struct("=HH")
_REQUEST, _DUMP, _ERROR, _DONE = 0x1, 0x300, 2, 3
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _HOOK_NUMBER, _TYPE_MASK = 1, 3, 4, 1, 0x3FFF
#: NFPROTO_INET, IPV4, NETDEV; by family the hooks (NF_INET_*, NF_NETDEV_*) that an event comes by on its way
#: in, and those on its way out; what else hooks in is not on the way.
_FAMILIES = {1: "inet", 2: "ip", 5: "netdev"}
_HOOKS = {"inet": ((0, 1, 5), (3, 4)), "ip": ((0, 1), (3, 4)), "netdev": ((0,), (1,))}
#: The same by their names.
_IN, _OUT = ("ingress", "prerouting", "input"), ("egress", "output", "postrouting")
_LEGACY = Path("/proc/net/ip_tables_names")
_SILENT = {"counter", "log", "comment", "meta set", "notrack", "ct helper", "dup"}
_DEPTH = 16
#: How begins what is said of rules that do so to some of it, or may.
_POSSIBLY = "possibly "
_LEAVING = " when they leave again"

_log = logging.getLogger(__name__)

#: What may become of a packet in a chain.
_Outcomes = set[str]
#: What keeps it from where it was to go, and what only makes it another one.
_WITHHELD, _ALTERED = {"drop": "dropped", "elsewhere": "sent elsewhere"}, "altered"


class _Chain(NamedTuple):
    """A chain that hooks in, or one that it leads to; ``kind``: of the former (filter, nat, route)."""

    place: tuple[str, str, str]
    leaving: bool
    kind: str
    rules: Mapping[tuple[str, str, str], list[Mapping[str, Any]]]
    port: int
    depth: int = 0


class Firewall:
    """The rules of one network namespace, as far as they are about datagrams to ``port``."""

    def __init__(self, port: int) -> None:
        self._port = port
        #: What was found last.
        self.found: tuple[str, ...] = ()
        #: What lets nothing through for certain of what comes to the port; empty: nothing does.
        self.forbids = ""
        self._generation: bytes | None = b""

    @property
    def passed_by(self) -> tuple[str, ...]:
        """What may drop or alter something of it, which the fast path carries as it is."""
        return () if self.forbids else self.found

    def look(self) -> tuple[str, ...]:
        """What would become of it, for certain or possibly, each in words; what is new is logged, once."""
        generation, before = _generation(), self.found
        if generation is None or generation != self._generation:
            self.found = (*self._rules(), *_legacy(self._port))
            self.forbids = next((each for each in self.found if not each.startswith(_POSSIBLY)), "")
            self._generation = generation
        for each in self.found:
            if each not in before:
                sure = not each.startswith(_POSSIBLY)
                does, but = ("takes nothing, as", "would have it") if sure else ("passes", "by")
                _log.warning(
                    "the fast path %s the host's firewall %s: datagrams to port %d are %s",
                    does, but, self._port, each,
                )  # fmt: skip
        if before and not self.found:
            _log.warning("the host's firewall has nothing any more against what comes for the data port")
        return self.found

    def _rules(self) -> Iterator[str]:
        tool = located("nft")
        if tool is not None:
            with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
                done = subprocess.run(
                    (tool, "-j", "list", "ruleset"), capture_output=True, timeout=_LIMIT, check=True
                )
                yield from judge(json.loads(done.stdout), self._port)
                return
        for family, table, chain, leaving in _chains():
            yield (
                f"{_POSSIBLY}dropped{_LEAVING if leaving else ''} by nftables: chain {chain} of table "
                f"{family} {table} is on the way, and what it says cannot be read here (nft as root can)"
            )


def judge(ruleset: Mapping[str, Any], port: int) -> Iterator[str]:
    """The same of what ``nft -j list ruleset`` prints."""
    entries = [entry for entry in ruleset.get("nftables", ()) if isinstance(entry, dict)]
    rules: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for rule in (entry["rule"] for entry in entries if "rule" in entry):
        rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
    for chain in (entry["chain"] for entry in entries if "chain" in entry):
        hook, family = chain.get("hook"), chain["family"]
        if family not in _HOOKS or hook not in (*_IN, *_OUT):
            continue
        place, leaving = (family, chain["table"], chain["name"]), hook in _OUT
        policy = chain.get("policy", "accept")
        found = _walk(_Chain(place, leaving, chain.get("type", ""), rules, port))
        outcomes = {policy if each in ("next", "return") else each for each in found}
        by = f"{_LEAVING if leaving else ''} by nftables: chain {place[2]} of table {family} {place[1]}"
        whose = f", whose policy is {policy}" if policy == "drop" else ""
        if withheld := [words for each, words in _WITHHELD.items() if each in outcomes]:
            sure = "" if outcomes <= _WITHHELD.keys() else _POSSIBLY
            yield f"{sure}{withheld[0]}{by}{whose}"
        elif _ALTERED in outcomes:
            yield f"{_POSSIBLY}{_ALTERED}{by}"


def _walk(chain: _Chain) -> _Outcomes:
    """What may become of an event; "next": nothing of what this chain says."""
    if chain.depth > _DEPTH:
        return {"drop", "next"}
    found: _Outcomes = set()
    for rule in chain.rules.get(chain.place, ()):
        fits, verdict = _rule(rule, chain)
        if fits is False:
            continue
        found |= verdict - {"next"}
        if fits and "next" not in verdict:
            return found
    return found | {"next"}


def _rule(rule: Mapping[str, Any], chain: _Chain) -> tuple[bool | None, _Outcomes]:
    """Whether the event fits the rule, None: it depends; and what it does then."""
    fits: bool | None = True
    altered: _Outcomes = set()
    for statement in rule.get("expr", ()):
        kind, what = next(iter(statement.items())) if isinstance(statement, dict) else (str(statement), {})
        if kind == "match":
            one = _matches(what, chain)
            if one is False:
                return False, set()
            fits = fits if one else None
        elif kind in ("accept", "return"):
            return fits, {kind, *altered}
        elif kind in ("drop", "reject"):
            return fits, {"drop"}
        elif kind in ("dnat", "redirect", "fwd"):
            return fits, {"elsewhere"}
        elif kind in ("snat", "masquerade"):
            return fits, {_ALTERED, "accept"}
        elif kind == "mangle":
            altered |= _altered(what, chain)
        elif kind in ("jump", "goto"):
            place = (*chain.place[:2], what["target"])
            inside = _walk(chain._replace(place=place, depth=chain.depth + 1))
            back = "next" if kind == "jump" else "return"
            return fits, altered | {back if each in ("next", "return") else each for each in inside}
        elif kind not in _SILENT:
            # Maps of verdicts, queues, limits, matches of iptables: whatever they say.
            fits = None
            if kind in ("vmap", "queue", "xt", "tproxy", "synproxy"):
                return None, {_worst(chain), "accept", "next"}
    return fits, {"next", *altered}


def _worst(chain: _Chain) -> str:
    """What a rule can do that says it in words of its own."""
    if chain.kind != "nat":
        return "drop"
    return _ALTERED if chain.leaving else "elsewhere"


def _altered(what: Any, chain: _Chain) -> _Outcomes:
    """What is made of an event by setting something: of its header, or the mark that a way is chosen by."""
    key = what.get("key") if isinstance(what, dict) else None
    by_mark = chain.kind == "route" and isinstance(key, dict) and (key.get("meta") or {}).get("key") == "mark"
    return {_ALTERED} if by_mark or (isinstance(key, dict) and "payload" in key) else set()


def _matches(match: Mapping[str, Any], chain: _Chain) -> bool | None:
    left, right, op = match.get("left"), match.get("right"), match.get("op")
    if not isinstance(left, dict):
        return None
    found: bool | None = None
    payload, meta, ct = (left.get(key) or {} for key in ("payload", "meta", "ct"))
    if payload.get("protocol") in ("tcp", "sctp", "dccp", "icmp", "icmpv6", "ip6"):
        return False
    ours, lo = ("sport", ("oif", "oifname")) if chain.leaving else ("dport", ("iif", "iifname"))
    if payload.get("protocol") in ("udp", "th") and payload.get("field") == ours:
        found = _among(right, chain.port)
    elif meta.get("key") == "l4proto" or (payload.get("protocol"), payload.get("field")) == (
        "ip",
        "protocol",
    ):
        found = _among(right, "udp", 17)
    elif meta.get("key") == "nfproto":
        found = _among(right, "ipv4")
    elif meta.get("key") == "protocol":
        found = _among(right, "ip")
    elif meta.get("key") in lo and right == "lo":
        # What comes or leaves there comes to no interface of the fast path.
        found = False
    elif ct.get("key") == "state" and chain.leaving:
        # A member's keep-alives may have made it an answer.
        found = False if _among(right, "new", "established", "related") is False else None
    elif ct.get("key") == "state":
        found = _among(right, "new")
    if found is None or op not in ("==", "!=", "in"):
        return None
    return found if op != "!=" else not found


def _among(right: Any, *wanted: object) -> bool | None:
    """Whether one of these is what is named, a set of it, or a range; None: that cannot be told."""
    if isinstance(right, dict):
        if "set" in right:
            return _any(_among(each, *wanted) for each in right["set"])
        if "range" in right and all(isinstance(each, int) for each in right["range"]):
            low, high = right["range"]
            return any(isinstance(each, int) and low <= each <= high for each in wanted)
        return None
    if isinstance(right, list):
        return _any(_among(each, *wanted) for each in right)
    if isinstance(right, str) and right.startswith("@"):
        return None
    return right in wanted


def _any(each: Iterable[bool | None]) -> bool | None:
    found = list(each)
    return True if True in found else None if None in found else False


def _legacy(port: int) -> Iterator[str]:
    """Of iptables without nftables it can be told which tables there are."""
    with contextlib.suppress(OSError):
        if names := _LEGACY.read_text().split():
            yield (
                f"possibly dropped by iptables: it has rules of its own kind ({', '.join(sorted(names))}), "
                f"which are not looked at: iptables-legacy -L INPUT -n tells of UDP to port {port}"
            )


def _generation() -> bytes | None:
    """What changes with the rules; None: nobody tells."""
    for kind, body in _ask(_GETGEN, 0):
        if kind == _NFTABLES | (_GETGEN - 1):
            return body
    return None


def _chains() -> Iterator[tuple[str, str, str, bool]]:
    """Family, table and name of the chains that events come by, and whether that is when they leave."""
    for kind, body in _ask(_GETCHAIN, _DUMP):
        family = _FAMILIES.get(body[0]) if kind == _NFTABLES | (_GETCHAIN - 1) else None
        attributes = dict(_attributes(body[_FAMILY.size :]))
        hook = dict(_attributes(attributes.get(_CHAIN_HOOK, b"")))
        number = int.from_bytes(hook.get(_HOOK_NUMBER, b"\xff"), "big")
        for leaving in (False, True):
            if family is not None and number in _HOOKS[family][leaving]:
                told = (attributes.get(each, b"").rstrip(b"\0") for each in (_CHAIN_TABLE, _CHAIN_NAME))
                table, name = (each.decode(errors="replace") for each in told)
                yield family, table, name, leaving


def _ask(what: int, flags: int) -> Iterator[tuple[int, bytes]]:
    """The messages of an answer; none where there are no nftables, or who asks may not."""
    question = _HEADER.pack(_HEADER.size + _FAMILY.size, _NFTABLES | what, _REQUEST | flags, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as sock:
            sock.settimeout(_LIMIT)
            sock.send(question + _FAMILY.pack(0, 0, 0))
            while True:
                rest = sock.recv(1 << 17)
                while len(rest) >= _HEADER.size:
                    length, kind, _, _, _ = _HEADER.unpack_from(rest)
                    if kind in (_ERROR, _DONE):
                        return
                    yield kind, rest[_HEADER.size : length]
                    rest = rest[(length + 3) & ~3 :]
                if not flags & _DUMP:
                    return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EPROTONOSUPPORT, errno.ENOBUFS, None):
            raise


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    while len(body) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(body)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, body[_ATTRIBUTE.size : length]
        body = body[(length + 3) & ~3 :]
