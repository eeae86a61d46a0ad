"""A platform as values: where its parts are, and which workflows run on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tempos import Quality
from tempos._abi import API_PORT, CONTROL_PORT, DATA_PORT

#: Where the daemons answer by default.
INVOKER_PORT, TRIGGER_PORT, CONTROLLER_PORT = 9995, 9994, 9993
#: The node that there is where the file names none.
LOCAL = "local"


@dataclass(frozen=True, slots=True)
class ControllerPlace:
    """Where the Controller answers and keeps its state. ``state`` "": its usual folder."""

    name: str = "default"
    host: str = "127.0.0.1"
    port: int = CONTROLLER_PORT
    token: str = field(default="", repr=False)
    token_file: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class BrokerPlace:
    """The broker of the platform.

    ``config``: the file of one that the Controller starts; ``running``: one that is there anyway. With
    neither the Controller writes a file from the other fields. ``address``: where triggers and invokers
    reach it.
    """

    running: bool = False
    config: str = ""
    address: str = "127.0.0.1"
    listen: tuple[str, ...] = ("127.0.0.1",)
    data_port: int = DATA_PORT
    control_port: int = CONTROL_PORT
    api_host: str = "127.0.0.1"
    api_port: int = API_PORT
    token: str = field(default="", repr=False)
    token_file: str = ""
    name: str = "default"
    fastpath: str = "auto"
    interfaces: tuple[str, ...] = ()
    client: str = ""
    key: bytes = field(default=b"", repr=False)
    keys_file: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine with an invoker and triggers: where their APIs are (port 0: none there).

    ``start``: the Controller starts them on its own machine. ``broker``: the broker's address as seen from
    there, "" for that of ``[broker]``. ``quality``: the class whose steps and triggers come here where they
    name no node; None: any. ``priority``: of SCHED_FIFO for what is started here.
    """

    name: str
    start: bool = True
    invoker: tuple[str, int] = ("127.0.0.1", INVOKER_PORT)
    trigger: tuple[str, int] = ("127.0.0.1", TRIGGER_PORT)
    invoker_token_file: str = ""
    trigger_token_file: str = ""
    broker: str = ""
    quality: Quality | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Function:
    """A function: its options as the invoker takes them, the name included."""

    name: str
    options: Mapping[str, Any]

    @property
    def code(self) -> Mapping[str, str] | None:
        """``{"sha256", "name"}`` of its code, if it has any of its own."""
        found: Mapping[str, str] | None = self.options.get("code")
        return found


@dataclass(frozen=True, slots=True)
class Trigger:
    """An endpoint of a node's trigger; ``options``: what the file says beside, which its kind judges."""

    name: str
    kind: str
    node: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """A function behind a topic, on each of ``nodes``.

    ``limits``: queue, retries, backoff and max_age as the invoker takes them, those that are given.
    """

    workflow: str
    name: str
    function: str
    quality: Quality
    topic: str
    group: str
    result: str
    error: str
    nodes: tuple[str, ...]
    reply: bool
    limits: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that workflows need. ``options``: as the broker's API takes them, those that somebody states.

    ``by``: the key path of who asks for it.
    """

    name: str
    options: Mapping[str, Any]
    by: str


@dataclass(frozen=True, slots=True)
class Workflow:
    """From ``topic`` through ``steps``; ``triggers``: the endpoints that publish on the topic."""

    name: str
    quality: Quality
    topic: str
    triggers: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Platform:
    """All of it; sound as a whole."""

    controller: ControllerPlace
    broker: BrokerPlace
    nodes: tuple[Node, ...]
    functions: tuple[Function, ...]
    triggers: tuple[Trigger, ...]
    workflows: tuple[Workflow, ...]
    topics: tuple[Topic, ...]
