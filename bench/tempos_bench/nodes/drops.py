"""What the kernel of this node dropped so far, under the names of where it did: interfaces, queues, sockets.

Must be called inside the node's namespace. Only what can take a datagram without a word is counted here; what
a program refuses it tells itself. One drop may show at both ends of a link.
"""

from __future__ import annotations

from pathlib import Path

#: The files of the calling thread's namespace, whatever namespace the process began in.
_NET = Path("/proc/thread-self/net")
#: Where in /proc/net/dev the drops of a device stand: as it receives, as it transmits.
_IN, _OUT = 3, 11
#: What found no room in the socket that it was for.
FULL_SOCKETS = "full sockets"
#: Of /proc/net/snmp, in words.
_NAMES = {
    "Udp": {"RcvbufErrors": FULL_SOCKETS, "InCsumErrors": "bad UDP checksums", "NoPorts": "no socket",
            "MemErrors": "no memory for sockets"},
    "Ip": {"InDiscards": "IP in", "OutDiscards": "IP out", "OutNoRoutes": "no route",
           "InHdrErrors": "bad IP headers", "ReasmFails": "reassembly"},
}  # fmt: skip


def dropped() -> dict[str, int]:
    """Datagrams dropped since the namespace was made, by where; zeros are left out."""
    found = {}
    for line in (_NET / "dev").read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        values = [int(number) for number in numbers.split()]
        found[f"{name.strip()} in"] = values[_IN]
        found[f"{name.strip()} out"] = values[_OUT]
    for kind, names in _NAMES.items():
        counters = _counters(kind)
        found |= {words: counters.get(name, 0) for name, words in names.items()}
    return {name: count for name, count in found.items() if count}


def _counters(kind: str) -> dict[str, int]:
    names, values = (
        line.split()[1:] for line in (_NET / "snmp").read_text().splitlines() if line.startswith(f"{kind}:")
    )
    return dict(zip(names, map(int, values), strict=True))
