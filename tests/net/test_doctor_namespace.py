"""The doctor looks at the interfaces of the namespace that it runs in, whatever /sys shows there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.privileges import require_netns
from support.waiting import LIMIT

pytestmark = pytest.mark.netns

LOOK = """
import json
from tempos.doctor import Asked, host
tried = host.gather(Asked())
seen = {(each.check, each.subject): each.cause for each in tried if each.check >= "TD511"}
print(json.dumps([host.sysfs_is_of_here(), [[*key, cause] for key, cause in seen.items()]]))
"""


def test_a_namespace_that_was_entered_without_its_sysfs() -> None:
    require_netns()
    made = "ip link add far0 mtu 1400 type veth peer name far1 && ip link set far0 up && ip link set far1 up"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", f'{made} && exec "$@"', "sh", sys.executable, "-c", LOOK],
        capture_output=True, text=True, timeout=LIMIT, check=True,
    )  # fmt: skip
    same, seen = json.loads(done.stdout)
    assert not same, "unshare leaves /sys as it is"
    assert {name for _, name, _ in seen} == {"far0", "far1"}
    assert ["TD511", "far0", "MTU 1400"] in seen
    assert not any(code == "TD513" for code, _, _ in seen), "the queues are known to /sys alone"
