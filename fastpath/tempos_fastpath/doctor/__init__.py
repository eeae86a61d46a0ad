"""What `tempos doctor` asks of the kernel and of the interfaces: the checks, and what is tried for them.

__init__    the tables of checks; imports nothing that could be missing
trials      a process of its own, in a network namespace of its own: all that needs the kernel's yes
loads       every program of every object, as the broker would have it
forwarding  events through the whole fast path, in each mode
sandbox     the links that those pass, and frames into and out of them
interfaces  what this machine's own interfaces could do
"""

from __future__ import annotations

from tempos.doctor import Area, Asked, Check, Severity, Tried
from tempos.doctor.programs import with_sudo

_ANY = frozenset({"auto", "native", "generic"})
_SLOW = "the broker serves by the slow path"


def _kernel(asked: Asked) -> tuple[Tried, ...]:
    from tempos_fastpath.doctor.parent import gather

    return tuple(gather(asked))


def _interfaces(asked: Asked) -> tuple[Tried, ...]:
    from tempos_fastpath.doctor.interfaces import gather

    return tuple(gather(asked))


KERNEL = Area(
    "kernel",
    (
        Check("TD101", "privileges", Severity.NOTE, means="a broker of this user has no fast path",
              fix=with_sudo("doctor")),
        Check("TD102", "fast path, in any mode", Severity.WARNING, means=_SLOW, wanted=_ANY),
        Check("TD103", "JIT compiler", Severity.WARNING, means="programs are interpreted, slowly",
              fix="sysctl -w net.core.bpf_jit_enable=1", wanted=_ANY),
        Check("TD104", "BPF file system", Severity.NOTE, means="the fast path ends with its broker",
              fix="mount -t bpf bpf /sys/fs/bpf"),
        Check("TD105", "the kernel's types (BTF)", Severity.NOTE,
              means="no generic mode, and losses behind the redirect are not counted"),
        Check("TD106", "libbpf", Severity.NOTE),
        Check("TD111", "program", Severity.WARNING, means=_SLOW, wanted=_ANY),
        Check("TD112", "program", Severity.NOTE, means="latency is not measured in the kernel"),
        Check("TD113", "program", Severity.NOTE,
              means="topics with several groups take the slow path where XDP cannot make the copies"),
        Check("TD114", "program", Severity.NOTE, means="losses behind the redirect are not counted"),
        Check("TD115", "program", Severity.NOTE, means="a classic program tells SQ from BQ in the kernel"),
        Check("TD116", "program", Severity.WARNING,
              means="no generic mode, and no native mode where the driver hides VLAN tags"),
        Check("TD117", "program", Severity.NOTE,
              means="native mode sends nothing by interfaces that the kernel does not speak for"),
        Check("TD119", "program", Severity.NOTE),
        Check("TD121", "native mode, one group", Severity.WARNING,
              means="generic mode serves, or the slow path", wanted=frozenset({"native"})),
        Check("TD122", "native mode, two groups", Severity.NOTE,
              means="topics with several groups take another way or the slow path"),
        Check("TD123", "generic mode, one group", Severity.WARNING,
              means="interfaces whose driver has no XDP take the slow path", wanted=frozenset({"generic"})),
        Check("TD124", "generic mode, two groups", Severity.NOTE,
              means="topics with several groups take the slow path on such interfaces"),
        Check("TD131", "links of tc programs (tcx)", Severity.NOTE,
              means="topics with several groups take the slow path where XDP cannot make the copies"),
        Check("TD132", "devices tell what they take (netdev family)", Severity.NOTE,
              means="whether a device takes redirected frames is judged by its kind, and by what gets lost"),
        Check("TD133", "losses behind the redirect are counted", Severity.NOTE,
              means="what an interface refuses shows only as undelivered"),
        Check("TD134", "sockets chosen by topic class (eBPF)", Severity.NOTE,
              means="a classic program tells SQ from BQ in the kernel"),
        Check("TD135", "programs are swapped and pinned in place", Severity.NOTE,
              means="a broker that starts cannot take over without a gap what an earlier one left"),
        Check("TD199", "trials", Severity.UNKNOWN, means="what is missing here was not tried"),
    ),
    _kernel,
)  # fmt: skip

INTERFACES = Area(
    "interfaces",
    (
        Check("TD201", "interface", Severity.WARNING, means="what comes in there takes the slow path",
              wanted=_ANY),
        Check("TD202", "leaving by", Severity.NOTE,
              means="in native mode members behind it get their events by the slow path"),
        Check("TD203", "interfaces", Severity.WARNING, means=_SLOW, wanted=frozenset({"native", "generic"})),
    ),
    _interfaces,
)  # fmt: skip
