"""What figures depend on: the machine, its settings, and the versions of everything that took part.

Whatever cannot be read here is left out: its absence is no fault, a guess would be one.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

_CPU = Path("/sys/devices/system/cpu")
#: Settings of the kernel that move figures of this kind, as files below /proc/sys.
_SYSCTLS = (
    "kernel/bpf_stats_enabled", "kernel/sched_rt_runtime_us", "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden", "net/core/busy_poll", "net/core/busy_read", "net/core/dev_weight",
    "net/core/netdev_budget", "net/core/netdev_budget_usecs", "net/core/netdev_max_backlog",
    "net/core/rmem_default", "net/core/rmem_max", "net/core/wmem_max", "vm/swappiness",
)  # fmt: skip
_PACKAGES = (
    "uvloop", "msgpack", "cffi", "pyroute2", "numpy", "matplotlib",
    "nats-py", "paho-mqtt", "redis", "pyzmq", "eclipse-zenoh",
)  # fmt: skip
#: Programs whose first line of output names their version.
_PROGRAMS = {
    "clang": ("clang", "--version"),
    "gcc": ("gcc", "--version"),
    "bpftool": ("bpftool", "version"),
    "nats-server": ("nats-server", "--version"),
    "mosquitto": ("mosquitto", "-h"),
    "redis-server": ("redis-server", "--version"),
}
_LIMIT = 5.0


def describe() -> dict[str, Any]:
    """The machine as a JSON object: processor, kernel, settings, versions."""
    model = _cpu_info("model name") or platform.machine()
    return _present(
        {
            "cpu": model,
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "memory_mb": _memory_mb(),
            "microcode": _cpu_info("microcode"),
            "hypervisor": "hypervisor" in _cpu_info("flags").split() or None,
            "smt": _read(_CPU / "smt/active"),
            "governor": _read(_CPU / "cpu0/cpufreq/scaling_governor"),
            "turbo": _turbo(),
            "idle_driver": _read(_CPU / "cpuidle/current_driver"),
            "clocksource": _read(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
            "mitigations": _folder(_CPU / "vulnerabilities"),
            "sysctls": _present({name: _read(Path("/proc/sys", name)) for name in _SYSCTLS}),
            "versions": versions(),
            "commit": commit(),
        }
    )


def versions() -> dict[str, str]:
    """Of tempos, the libraries it stands on, the tools that built it, and the peers that are installed."""
    found = {"tempos": _package("tempos"), "libbpf": _libbpf()}
    found |= {name: _package(name) for name in _PACKAGES}
    found |= {name: _program(command) for name, command in _PROGRAMS.items()}
    return _present(found)


def commit() -> str | None:
    """The commit of the checkout this runs from, with `+` where it was changed; None outside of one."""
    here = Path(__file__).parent
    if not any((parent / ".git").exists() for parent in here.parents):
        return None
    head = _output(("git", "-C", str(here), "rev-parse", "--short=12", "HEAD"))
    changed = _output(("git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"))
    return head and head.strip() + ("+" if changed else "")


def load() -> list[float]:
    """The load averages of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def _cpu_info(key: str) -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def _memory_mb() -> int | None:
    found = re.search(r"MemTotal:\s+(\d+) kB", _read(Path("/proc/meminfo")) or "")
    return int(found[1]) // 1024 if found else None


def _turbo() -> str | None:
    no_turbo = _read(_CPU / "intel_pstate/no_turbo")
    boost = _read(_CPU / "cpufreq/boost") if no_turbo is None else {"0": "1", "1": "0"}.get(no_turbo)
    return {"0": "off", "1": "on"}.get(boost or "")


def _folder(folder: Path) -> dict[str, str]:
    with suppress(OSError):
        return _present({path.name: _read(path) for path in sorted(folder.iterdir())})
    return {}


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _libbpf() -> str | None:
    # As the broker's own process would load it; this package imports no fast path.
    import ctypes.util

    name = ctypes.util.find_library("bpf")
    if name is None:
        return None
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(name)
        library.libbpf_version_string.restype = ctypes.c_char_p
        return str(library.libbpf_version_string().decode())
    return name


def _program(command: tuple[str, ...]) -> str | None:
    text = _output(command) if shutil.which(command[0]) else None
    return text.strip().splitlines()[0] if text and text.strip() else None


def _output(command: Iterable[str]) -> str | None:
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", {})}


if __name__ == "__main__":
    print(json.dumps(describe()))
