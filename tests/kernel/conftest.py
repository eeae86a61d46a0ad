"""The program under test, loaded once per mode and given to each test empty; nodes for a whole fast path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.nodes import loopback_up, steered
from support.privileges import require_kernel, require_netns
from support.program import Rig

from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.topology import Topology, build
from tempos_fastpath.survival import ownership
from tempos_fastpath.survival.orphans import installed, remove


@pytest.fixture(scope="session", params=["native", "generic"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    require_kernel()
    rig = Rig(generic=request.param == "generic")
    yield rig
    rig.close()


@pytest.fixture
def rig(loaded: Rig) -> Rig:
    """The program without a route, all tickets and counters at 0."""
    loaded.clear()
    return loaded


@pytest.fixture
def shape() -> str:
    """What the nodes of a test are built as; a module may have its own."""
    return "straight"


@pytest.fixture
def topology(shape: str) -> Iterator[Topology]:
    require_netns()
    require_kernel()
    with build(shape) as topology:
        namespace = topology.broker.call(ownership.current_namespace)
        yield topology
        # Whatever a failed test left; a namespace's number never comes again.
        topology.broker.close()
        for each in installed():
            if each.identity.namespace == namespace:
                remove(each)


@pytest.fixture(params=["here", "elsewhere"])
def space(request: pytest.FixtureRequest) -> Iterator[Namespace | None]:
    """Where what is observed happens: in our own network namespace, and in another with a loopback.

    Where a test asks for "other-cpu", there with receive packet steering: packets are handled on any CPU, not
    on their sender's. Then the kernel may leave out runs of a program that is under way on that CPU.
    """
    require_kernel()
    require_netns()
    if request.param == "here":
        yield None
        return
    with Namespace("observed") as namespace:
        namespace.call(loopback_up)
        if request.param == "other-cpu":
            namespace.call(steered)
        yield namespace
