"""The values of a deployment: a broker, functions, and the steps of workflows that call them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from tempos import _abi
from tempos.auth import Key
from tempos.encryption import TopicKeys
from tempos_invoker.core.step import Step


@dataclass(frozen=True, slots=True)
class BrokerAt:
    """Where the broker is, the key that signs what is asked of it, and those that encrypt events."""

    address: str = "127.0.0.1"
    control_port: int = _abi.CONTROL_PORT
    data_port: int = _abi.DATA_PORT
    auth: Key | None = None
    keys: TopicKeys | None = None
    keys_file: str = ""

    def __str__(self) -> str:
        return f"{self.address}:{self.control_port}"


@dataclass(frozen=True, slots=True)
class Code:
    """A file of code. It lies at ``path``; ``folder``: where a file of TOML named it."""

    sha256: str
    name: str
    path: str = ""
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Function:
    """Named code with a mode and limits. Times in seconds, sizes in bytes (0: no limit of its own).

    ``concurrency``: workers, each of which runs one invocation at a time. ``ahead``: processes that the mode
    spawn starts before they are needed. ``warm``: a body to warm up with, None for no warm-up.
    """

    name: str
    mode: str
    code: Code | None = None
    entry: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    user: str = ""
    timeout: float = 1.0
    concurrency: int = 1
    load: str = "keep"
    memory: int = 0
    output: int = 0
    ahead: int = 0
    processes: int = 0
    grants: tuple[str, ...] = ()
    warm: str | None = None

    @property
    def version(self) -> str:
        """Another one wherever code or settings differ, but for how many workers there are."""
        told = asdict(self)
        told.pop("concurrency")
        told["code"] = self.code and (self.code.sha256, self.code.name)
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=dict).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Deployment:
    """All that an invoker is to do. ``revision``: whatever its maker calls it."""

    revision: str = ""
    broker: BrokerAt = BrokerAt()
    functions: tuple[Function, ...] = ()
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """The invoker itself.

    ``state``: its folder; ``fixed``: what it is to do stands in a file, so the API does not change it.
    ``priority`` of SCHED_FIFO for itself, ``priority_sq`` for workers of SQ steps, 0 for ordinary scheduling;
    ``budget_sq``: the share of a core that each of them may use.
    """

    name: str = "default"
    api: tuple[str, int] = ("127.0.0.1", 9995)
    api_token: str = ""
    api_token_file: str = ""
    state: str = ""
    log: str = ""
    priority: int = 0
    priority_sq: int = 50
    budget_sq: float = 0.8
    fixed: bool = False
