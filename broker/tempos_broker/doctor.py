"""What `tempos doctor` asks of a broker's configuration, and of the kernel for `tempos tsn`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

from tempos import ConfigError
from tempos.doctor import Area, Asked, Check, Severity, Tried
from tempos.doctor.programs import located, search_path, with_sudo
from tempos.errors import one_line

_LIMIT = 30.0
#: A device with two transmit queues in a namespace of its own, which is gone with this shell.
_SANDBOX = """
ip link add name t0 numtxqueues 2 type veth peer name t1 numrxqueues 2
ip link set t0 up
"""
_TAPRIO = (
    "tc qdisc add dev t0 root handle 7e50: taprio num_tc 2 map 0 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 "
    "queues {queues} base-time 0 sched-entry S 01 500000 sched-entry S 02 500000 {more} clockid CLOCK_TAI"
)
_SCRIPTS = {
    "TD301": _TAPRIO.format(queues="1@0 1@1", more=""),
    "TD302": _TAPRIO.format(queues="1@0 1@0", more="flags 0x1 txtime-delay 200000")
    + "\ntc qdisc replace dev t0 parent 7e50:1 etf clockid CLOCK_TAI delta 200000 skip_sock_check",
}


def prepare(asked: Asked) -> Asked:
    """What the configuration asks for; interfaces that were named stay."""
    if not asked.config:
        return asked
    try:
        from tempos_broker.config import load

        config = load(asked.config)
    except (ConfigError, ImportError):
        # Told below.
        return asked
    return replace(
        asked,
        interfaces=asked.interfaces or config.fastpath.interfaces,
        listen=tuple(config.listen),
        mode=config.fastpath.mode,
        token_file=asked.token_file or config.api_token_file,
        state=config.state.file,
        ports=(config.data_port, config.control_port),
    )


def _configuration(asked: Asked) -> Iterator[Tried]:
    if not asked.config:
        return
    try:
        from tempos_broker.config import load

        config = load(asked.config)
    except ConfigError as error:
        for problem in error.problems:
            yield Tried("TD051", False, problem, asked.config)
    except ImportError as error:
        yield Tried("TD051", None, one_line(error), asked.config, fix="pip install 'tempos[broker]'")
    else:
        cause = f"{len(config.topics)} topics; fastpath.mode = {config.fastpath.mode!r}"
        yield Tried("TD051", True, cause, asked.config)


def _sending(_asked: Asked) -> Iterator[Tried]:
    if sys.platform != "linux":
        return
    missing = [name for name in ("unshare", "ip", "tc") if located(name) is None]
    for code, script in _SCRIPTS.items():
        if missing:
            yield Tried(code, None, f"not installed: {', '.join(missing)}", fix="apt-get install iproute2")
        else:
            yield _try(code, script)


def _try(code: str, script: str) -> Tried:
    """Run the commands in a namespace of their own."""
    shell = ("unshare", "--net", "--", "sh", "-ec", _SANDBOX + "echo ready\n" + script)
    try:
        done = subprocess.run(
            shell, capture_output=True, text=True, timeout=_LIMIT, check=False,
            env={**os.environ, "PATH": search_path()},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Tried(code, None, one_line(error))
    said = one_line(done.stderr) or f"exit code {done.returncode}"
    if done.returncode == 0:
        return Tried(code, True, "set up on a veth")
    if "ready" not in done.stdout:
        return Tried(code, None, f"no device to try it on: {said}", fix=with_sudo("doctor"))
    return Tried(code, False, said)


CONFIGURATION = Area(
    "configuration",
    (Check("TD051", "file", Severity.FAULT, means="a broker does not start with it"),),
    lambda asked: tuple(_configuration(asked)),
    prepare,
)
SENDING = Area(
    "time-aware sending",
    (
        Check("TD301", "gates by the kernel's timer (taprio)", Severity.NOTE,
              means="tempos tsn plan --apply is refused", fix="modprobe sch_taprio"),
        Check("TD302", "launch times (taprio and etf)", Severity.NOTE,
              means="tempos tsn plan --txtime --apply is refused", fix="modprobe -a sch_taprio sch_etf"),
    ),
    lambda asked: tuple(_sending(asked)),
)  # fmt: skip
