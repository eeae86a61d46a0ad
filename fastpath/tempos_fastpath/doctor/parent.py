"""The kernel's area, as seen from the command: what can be read is read here, the rest is tried by a child.

The child is a process of its own, so that a namespace, links and programs end with it, however it ends. It
writes a line of JSON for each thing tried, so what was tried before an end is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tempos import Unavailable
from tempos.doctor import Asked, Tried
from tempos.doctor.installation import lacking_packages
from tempos.doctor.programs import with_sudo
from tempos.errors import one_line

#: Seconds; an emulated processor needs a minute.
_LIMIT = 300.0
#: By their numbers in <linux/capability.h>.
_NEEDED = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 21: "CAP_SYS_ADMIN", 38: "CAP_PERFMON", 39: "CAP_BPF"}
_JIT = Path("/proc/sys/net/core/bpf_jit_enable")
_BTF = Path("/sys/kernel/btf/vmlinux")
_TRIALS = (sys.executable, "-m", "tempos_fastpath.doctor.trials")


def gather(_asked: Asked) -> Iterator[Tried]:
    """Everything about the kernel."""
    if sys.platform != "linux":
        yield Tried("TD102", False, f"this is {sys.platform}: only Linux has XDP")
        return
    lacking = _lacking()
    yield Tried("TD101", not lacking, f"without {', '.join(lacking)}" if lacking else "all that it takes")
    if missing := lacking_packages("fastpath"):
        cause = f"tempos[fastpath] is not installed: {', '.join(missing)}"
        yield Tried("TD102", None, cause, fix="pip install 'tempos[fastpath]'")
        return
    try:
        from tempos_bpf.objects import libbpf_version
        from tempos_fastpath import offload  # noqa: F401 - whether all of it can be loaded
    except (Unavailable, ImportError) as error:
        yield Tried("TD102", False, one_line(error))
        return
    yield Tried("TD106", True, libbpf_version())
    yield _jit()
    yield Tried("TD105", _BTF.exists(), str(_BTF) if _BTF.exists() else f"there is no {_BTF}")
    if lacking:
        yield Tried("TD102", None, f"not tried without {', '.join(lacking)}", fix=with_sudo("doctor"))
    else:
        yield from _tried()


def _lacking() -> list[str]:
    """The names of the capabilities that it takes and this process has not."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
            return [name for number, name in _NEEDED.items() if not effective >> number & 1]
    return list(_NEEDED.values())


def _jit() -> Tried:
    try:
        value = _JIT.read_text().strip()
    except FileNotFoundError:
        # No such switch: built to be always on.
        return Tried("TD103", True, "always on")
    except OSError as error:
        return Tried("TD103", None, f"{_JIT} cannot be read: {error.strerror}")
    return Tried("TD103", value != "0", f"net.core.bpf_jit_enable = {value}")


def _tried() -> Iterator[Tried]:
    """What the child tried, and how it ended if that was not in order."""
    try:
        done = subprocess.run(_TRIALS, capture_output=True, text=True, timeout=_LIMIT, check=False)
        output, end = done.stdout, f"exit code {done.returncode}: {done.stderr.strip()[-400:]}"
        ended_well = done.returncode == 0
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode(errors="replace") if isinstance(late.stdout, bytes) else ""
        end, ended_well = f"nothing came for {_LIMIT:.0f} s", False
    found = [Tried(**json.loads(line)) for line in output.splitlines()]
    yield _fast_path(found)
    yield from found
    if not ended_well:
        yield Tried("TD199", None, f"they ended early: {one_line(end)}")


def _fast_path(found: list[Tried]) -> Tried:
    """Whether there is one in any mode: the sum of what was tried."""
    modes = {"TD121": "native", "TD123": "generic"}
    had = [modes[each.check] for each in found if each.check in modes and each.had]
    if had:
        return Tried("TD102", True, f"{' and '.join(had)} mode")
    refused = [each for each in found if each.check == "TD111" and not each.had]
    causes = dict.fromkeys(each.cause for each in refused or found if each.check in ("TD111", *modes))
    return Tried("TD102", False if causes else None, "; ".join(causes) or "nothing was tried")


def line_of(tried: Tried) -> str:
    """As the child writes it."""
    return json.dumps(asdict(tried))
