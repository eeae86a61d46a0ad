"""What devices can do with XDP, by the kernel's own word: its generic netlink family ``netdev`` (Linux 6.3).

Numbers are those of <linux/genetlink.h> and <linux/netdev.h>. Blocking, in the network namespace of the
calling thread; raises :class:`OSError` for what is no sign of an older kernel.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass

from tempos_fastpath.network.netlink import Netlink, attribute, attributes, number

_GENERIC, _CONTROL = 16, 16
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME, _GROUPS, _GROUP_NAME, _GROUP_ID = 3, 1, 2, 7, 1, 2
_DEV_GET, _DEV_IFINDEX, _DEV_FEATURES = 1, 1, 3
_HEADER = struct.Struct("=BBH")  # struct genlmsghdr: command, version
#: What kernels without the family say.
_NONE = (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTONOSUPPORT)


@dataclass(frozen=True, slots=True)
class _Family:
    number: int
    groups: dict[str, int]


def xdp_features() -> dict[int, int]:
    """Interface index -> what it can do with XDP (NETDEV_XDP_ACT_*); empty on kernels before 6.3."""
    try:
        with Netlink(_GENERIC) as netlink:
            family = _family(netlink)
            answers = netlink.dump(family.number, _HEADER.pack(_DEV_GET, 1, 0), family.number)
    except OSError as error:
        if error.errno in _NONE:
            return {}
        raise
    found = (attributes(each, _HEADER.size) for each in answers)
    return {number(each.get(_DEV_IFINDEX)): number(each.get(_DEV_FEATURES)) for each in found}


def feature_group() -> int:
    """The multicast group that tells when what a device can do has changed; 0 where there is none."""
    try:
        with Netlink(_GENERIC) as netlink:
            return _family(netlink).groups.get("mgmt", 0)
    except OSError:
        # The regular look finds it out, some seconds later.
        return 0


def _family(netlink: Netlink) -> _Family:
    request = _HEADER.pack(_GET_FAMILY, 1, 0) + attribute(_FAMILY_NAME, b"netdev\0")
    (answer,) = netlink.ask(_CONTROL, 0, [request])
    if isinstance(answer, int):
        raise OSError(-answer, os.strerror(-answer))
    found = attributes(answer, _HEADER.size)
    groups = map(attributes, attributes(found.get(_GROUPS, b"")).values())
    return _Family(
        number(found.get(_FAMILY_ID)),
        {each[_GROUP_NAME].rstrip(b"\0").decode(): number(each[_GROUP_ID]) for each in groups},
    )
