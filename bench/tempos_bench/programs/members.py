"""Members that come and go: `python -m tempos_bench.programs.members`.

One process, one group, many endpoints. Every change is one act of a member as the broker sees it: it
joins, leaves at once (`goodbye`), or drains. Members speak the control protocol through the client
library's own session; what reaches their data sockets is counted in C, by epoch, and each sequence is
looked for in one map that all of them share.

Prints `ready` when the first members are in, then serves JSON lines on standard input: {"sent": n} ends
the changes, lets everybody drain when `n` datagrams came (or none came for a while), and is answered with
the account.
"""

from __future__ import annotations

import argparse
import enum
import json
import random
import select
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tempos import CONTROL_PORT
from tempos.control import Received
from tempos.session import ControlSession
from tempos.session.events import Answered, Failed, Subscribed
from tempos.session.proof import decode
from tempos_bench.compiled import traffic
from tempos_bench.programs.rehearsal import Asked

#: Seconds that the socket of a member that left stays open: whatever still comes must not have.
_LINGER = 0.5
#: Seconds without a datagram after which the rest is lost.
_IDLE = 2.0
#: Seconds that the broker may wait for a member that drains: on a busy machine it hears late what came.
_PATIENCE = 30.0
#: Members that stay whatever happens, so that there always is somebody to deliver to.
_ALWAYS = 2


class State(enum.Enum):
    """Where a member is in its life."""

    JOINING = enum.auto()
    IN = enum.auto()
    LEAVING = enum.auto()
    DRAINING = enum.auto()
    TELLING = enum.auto()
    GONE = enum.auto()
    DONE = enum.auto()


class Account:
    """What all members together saw; ends as the answer of the program."""

    def __init__(self) -> None:
        self.joined = self.left = self.drained = 0
        self.received = self.repeated = self.damaged = self.overrun = self.late = 0
        #: Got, and never told the broker.
        self.drain_lost = self.untold = 0
        self.failures: list[str] = []


class BenchMember:
    """One endpoint from joining to the end."""

    def __init__(self, args: argparse.Namespace, seen: traffic.Seen, account: Account, number: int) -> None:
        self.state = State.JOINING
        self._account = account
        self._group: str = args.group
        self.data = traffic.open_socket(bind=traffic.Endpoint(args.address, 0))
        self.control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.control.setblocking(False)
        self.control.connect((args.broker, CONTROL_PORT))
        self._collector = traffic.Collector(self.data, seen)
        self._topic = 0
        self._told: dict[int, int] = {}
        self._life: object = None
        port = self.data.getsockname()[1]
        self._session = ControlSession(
            client=time.time_ns() << 10 & 0xFFFFFFFFFFFFFC00 | number & 0x3FF,
            broker=args.broker,
            port=port,
            counts=self,
        )
        self._asked: int | None = None
        self._gone_at = 0.0
        self._session.subscribe(args.topic, args.group, time.monotonic())

    # Counts, as the session asks for them.

    def report(self) -> list[dict[str, Any]]:
        return [{"received": self._news()}]

    def acknowledge(self, told: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        if answer.get("life", self._life) != self._life:
            self._life = answer["life"]
            self._told.clear()
        self._told.update({row.epoch: row.datagrams for row in told["received"]})

    def tell_again(self) -> None:
        self._told.clear()

    def _news(self) -> list[Received]:
        # The number of an epoch to come was that of one 256 ago.
        for ahead in range(1, 128):
            self._told.pop(self._collector.epoch + ahead & 0xFF, None)
        return [
            Received(self._topic, self._group, epoch, count)
            for epoch, count in self._collector.by_epoch().items()
            if self._told.get(epoch) != count
        ]

    # What happens to it.

    def leave(self, now: float) -> None:
        self.state = State.LEAVING
        self._asked = self._session.goodbye(now)

    def drain(self, now: float) -> None:
        self.state = State.DRAINING
        self._asked = self._session.drain(now, _PATIENCE)

    def readable(self) -> None:
        if self.state is State.JOINING and self._prove():
            return
        came = self._collector.take()
        if self.state is State.GONE or self.state is State.TELLING:
            self._account.late += came

    def _prove(self) -> bool:
        """Whether what came first is the broker's question whether this receives: its session answers."""
        try:
            told = decode(self.data.recv(2048, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        if told is None:
            return False
        self.data.recv(2048)
        return self._session.prove(*told, time.monotonic())

    def turn(self, now: float) -> None:
        """Everything that is not data: replies, timers, what follows from them."""
        try:
            while True:
                self._session.receive_datagram(self.control.recv(2048), now)
        except (BlockingIOError, ConnectionRefusedError):
            pass
        while (event := self._session.next_event()) is not None:
            self._happened(event, now)
        if self.state is State.GONE and now >= self._gone_at:
            self._end()
            return
        for datagram in self._session.datagrams_to_send(now):
            # Where nobody is now, it is asked again.
            with suppress(ConnectionRefusedError):
                self.control.send(datagram)

    def _happened(self, event: object, now: float) -> None:
        if isinstance(event, Subscribed):
            self._topic = event.topic.id
            self._collector.joined(event.epoch & 0xFF)
            self.state = State.IN
            self._account.joined += 1
        elif isinstance(event, Failed):
            self._account.failures.append(f"{event.op}: {event.error}")
            self.state = State.GONE
        elif isinstance(event, Answered) and event.request == self._asked:
            if event.op == "drain":
                self._account.drained += 1
                self._account.drain_lost += event.fields["lost"]
                self._leave_for_good(now)
            elif self.state is State.LEAVING:
                # The answer came after everything; what it did not know yet is told once more.
                self._collector.take()
                self._account.left += 1
                self.state = State.TELLING
                self._asked = self._session.goodbye(now)
            else:
                self._leave_for_good(now)

    def _leave_for_good(self, now: float) -> None:
        self.state = State.GONE
        self._gone_at = now + _LINGER

    def _end(self) -> None:
        self.readable()
        self.state = State.DONE
        self._account.overrun += traffic.dropped(self.data)
        self._account.received += self._collector.received
        self._account.repeated += self._collector.repeated
        self._account.damaged += self._collector.damaged
        self._account.untold += sum(row.datagrams - self._told.get(row.epoch, 0) for row in self._news())
        self.data.close()
        self.control.close()

    @property
    def so_far(self) -> int:
        """Datagrams it got."""
        return self._collector.received


class Crowd:
    """All members, and the changes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._rng = random.Random(args.seed)
        self._seen = traffic.Seen(args.expect, args.size)
        self.account = Account()
        self._members: list[BenchMember] = []
        self._number = 0
        self._next_change = 0.0
        self._sent: int | None = None
        self._last = (0, time.monotonic())

    def serve(self) -> None:
        for _ in range(self._args.members):
            self._join()
        self._until(lambda: all(member.state is State.IN for member in self._members))
        print("ready", flush=True)
        self._next_change = time.monotonic() if self._args.changes else 0.0
        self._until(self._all_came)
        self._until(self._all_drained)
        print(json.dumps(vars(self.account)), flush=True)

    def _join(self) -> None:
        self._number += 1
        self._members.append(BenchMember(self._args, self._seen, self.account, self._number))

    def _until(self, done: Any) -> None:
        while not done():
            self._step()
            if len(self.account.failures) > 5:
                raise SystemExit(f"members failed: {self.account.failures}")

    def _step(self) -> None:
        sockets = {member.data.fileno(): member for member in self._members}
        watched = [*sockets, *(member.control.fileno() for member in self._members)]
        poll = select.poll()
        for fd in watched:
            poll.register(fd, select.POLLIN)
        if self._sent is None:
            poll.register(sys.stdin.fileno(), select.POLLIN)
        for fd, _ in poll.poll(5):
            if fd in sockets:
                sockets[fd].readable()
            elif fd == sys.stdin.fileno():
                self._sent = json.loads(sys.stdin.readline())["sent"]
        now = time.monotonic()
        for member in self._members:
            member.turn(now)
        self._members = [member for member in self._members if member.state is not State.DONE]
        if self._next_change and self._sent is None and now >= self._next_change:
            self._next_change += 1 / self._args.changes
            self._change(now)

    def _change(self, now: float) -> None:
        inside = [member for member in self._members if member.state is State.IN]
        joining = [member for member in self._members if member.state is State.JOINING]
        present = len(inside) + len(joining)
        if len(inside) > _ALWAYS and (present >= self._args.members or self._rng.random() < 0.5):
            member = self._rng.choice(inside)
            if self._rng.random() < 0.5:
                member.leave(now)
            else:
                member.drain(now)
        else:
            self._join()

    def _all_drained(self) -> bool:
        # Who was still joining is let in first.
        for member in self._members:
            if member.state is State.IN:
                member.drain(time.monotonic())
        return not self._members

    def _all_came(self) -> bool:
        if self._sent is None:
            return False
        came = self.account.received + sum(member.so_far for member in self._members)
        if came != self._last[0]:
            self._last = (came, time.monotonic())
        return came >= self._sent or time.monotonic() - self._last[1] > _IDLE


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.members", description=__doc__)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--address", required=True, help="of this node")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--members", type=int, required=True, help="at most so many at a time")
    parser.add_argument("--changes", type=float, required=True, help="per second; 0: none")
    parser.add_argument("--expect", type=int, required=True, help="at most so many datagrams in all")
    parser.add_argument("--size", type=int, required=True, help="payload bytes of each")
    parser.add_argument("--seed", type=int, default=1)
    Crowd(parser.parse_args()).serve()


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    return vars(Account()) | {"received": asked.message["sent"]}


if __name__ == "__main__":
    main()
