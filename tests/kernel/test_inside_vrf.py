"""Programs whose sockets the kernel binds, as inside of `ip vrf exec`: they say so, and what it takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.binding import binding_group

from tempos import DATA_PORT, LocalError, _sockets
from tempos.doctor import vrf
from tempos_broker.slowpath.sockets import DataSocket, absent

#: Nobody's (TEST-NET-3).
ABSENT = "203.0.113.1"


@pytest.mark.kernel
def test_no_namespaces_are_made_where_sockets_would_be_bound_to_another_interface_in_them() -> None:
    asking = (sys.executable, "-c", "from tempos_bench.nodes.topology import missing; print(missing())")
    with binding_group() as prefix:
        # With interfaces to be bound to, whichever number that is.
        there = (
            "unshare",
            "--net",
            "sh",
            "-c",
            'ip link add blue type veth peer name green && exec "$@"',
            "sh",
        )
        inside = subprocess.run((*prefix, *there, *asking), capture_output=True, text=True, check=True).stdout
        outside = subprocess.run(asking, capture_output=True, text=True, check=True).stdout
    assert inside.startswith("no network namespace: the sockets of this program are bound to "), inside
    assert inside.endswith("as inside of a VRF; run it outside of the VRF\n")
    assert outside == "None\n"


def test_an_address_that_the_vrf_does_not_have_is_told_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(error: type[Exception], bind: object) -> str:
        assert callable(bind)
        with pytest.raises(error) as caught:
            bind()
        return str(caught.value)

    def broker() -> str:
        # It may come later, so a broker starts all the same, and says this.
        DataSocket.bind(ABSENT, 0, 4096).close()
        return absent(ABSENT)

    def client() -> str:
        return said(LocalError, lambda: _sockets.bound(ABSENT, DATA_PORT, 4096))

    assert "perhaps one in a VRF: change `listen`" in broker()
    assert "change `api`" in absent(ABSENT, "api")
    assert "VRF" not in client()
    monkeypatch.setattr(vrf, "bound_to", lambda: "blue")
    for text in (broker(), client()):
        assert "are bound to blue, as inside of a VRF" in text
    assert broker().endswith(
        f"change `listen`, or `ip address add {ABSENT}/LENGTH dev blue` gives it to the VRF"
    )
    assert vrf.remedy("blue", "127.0.0.1").startswith("`ip address add 127.0.0.1/8 dev blue`")
