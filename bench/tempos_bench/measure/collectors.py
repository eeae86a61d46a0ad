"""Senders at A and collectors at C that know nothing of tempos, looked at to the datagram.

Each sender sends one datagram a round, round after round; it holds the sender's number and the round's. So
for every group it is known who of its collectors got which sender's datagram of which round, and what came
twice, or never. No more is under way at a time than links and sockets of namespaces have room for, so that
what is missing was lost by whoever stands between. All of it is done in this process, by a thread.
"""

from __future__ import annotations

import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from tempos import TemposError
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import Topology

_HEAD = struct.Struct("!II")
#: Datagrams that may be under way; copies of them share a veth's ring of 256.
_WINDOW = 192
#: Seconds without any arrival after which what is under way is lost; seconds to wait for what is to happen.
_GONE, _LIMIT = patience(2.0), patience(60.0)
_BUFFER = 64 << 20
_SO_RCVBUFFORCE = 33
#: What a process opens besides its senders' sockets.
_OTHER_FILES = 500


class Collectors:
    """So many senders, and collectors at ``ports`` of C, by group; it runs inside :meth:`sending`.

    ``whole``: the groups that get every datagram; what makes room for more to be sent is what they got.
    """

    def __init__(
        self,
        topology: Topology,
        port: int,
        senders: int,
        groups: Mapping[str, Sequence[int]],
        *,
        whole: Sequence[str],
        payload: int = 64,
    ) -> None:
        """``port``: of the broker, where the senders send to."""
        _room_for(senders)
        a, c = topology.publisher, topology.subscriber
        to = (topology.broker.address, port)
        self._broker = set(topology.broker.addresses)
        self._senders = a.call(lambda: [_socket((a.address, 0), to) for _ in range(senders)])
        self._names = [each.getsockname() for each in self._senders]
        self._collectors = c.call(lambda: {
            _socket((c.address, at)): (group, number)
            for group, ports in groups.items()
            for number, at in enumerate(ports, 1)
        })  # fmt: skip
        self._whole = tuple(whole)
        self._body = bytes(max(0, payload - _HEAD.size))
        #: By group, then round, then sender: which of its collectors got it, counted from 1; 0: none.
        self.got: dict[str, list[bytearray]] = {group: [] for group in groups}
        #: By group: datagrams that came, those that had come before, from neither the sender nor the broker.
        self.came = dict.fromkeys(groups, 0)
        self.doubled = dict.fromkeys(groups, 0)
        self.strange = 0
        self.damaged = 0
        self.sent = 0
        self._gone = 0
        self._stop = threading.Event()
        self._error: BaseException | None = None

    @property
    def rounds(self) -> int:
        """Those that have begun."""
        return len(self.got[self._whole[0]])

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Rounds are sent, until the end; then all that was under way has come, or is lost."""
        thread = threading.Thread(target=self._run, name="senders and collectors")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
        self._fail()

    def after(self) -> int:
        """The number of a whole round that began after this was called, once all of it came."""
        wanted = self.rounds

        def came() -> bool:
            self._fail()
            return self.rounds > wanted + 1 and all(all(self.got[group][wanted]) for group in self._whole)

        wait_for(came, lambda: f"round {wanted} is not whole, {self.sent - self._least()} are under way")
        return wanted

    def lost(self, group: str) -> int:
        """Datagrams that never came to a group that gets all of them."""
        return sum(each.count(0) for each in self.got[group])

    def close(self) -> None:
        for sock in (*self._senders, *self._collectors):
            sock.close()

    def _fail(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with select.epoll() as watched:
                by_number = {sock.fileno(): sock for sock in self._collectors}
                for number in by_number:
                    watched.register(number, select.EPOLLIN)
                self._play(watched, by_number)
        except BaseException as error:  # noqa: BLE001 - told where it is waited for
            self._error = error

    def _play(self, watched: select.epoll, by_number: Mapping[int, socket.socket]) -> None:
        def take(seconds: float) -> bool:
            ready = watched.poll(seconds)
            for number, _ in ready:
                self._take(by_number[number])
            return bool(ready)

        def wait_until_under(most: int) -> None:
            while (under_way := self.sent - self._gone - self._least()) > most:
                if not take(_GONE):
                    self._gone += under_way
            # What groups get that get less than all waits as well.
            while take(0):
                pass

        chunk = _WINDOW // max(1, len(self.got)) // 2 or 1
        while not self._stop.is_set():
            for rounds in self.got.values():
                rounds.append(bytearray(len(self._senders)))
            number = self.rounds - 1
            for first in range(0, len(self._senders), chunk):
                for sender in range(first, min(first + chunk, len(self._senders))):
                    # A collector that is closed says so to nobody: what comes back goes to the broker.
                    self._senders[sender].send(_HEAD.pack(sender, number) + self._body)
                    self.sent += 1
                wait_until_under(chunk)
        wait_until_under(0)
        while take(0.3):
            pass

    def _least(self) -> int:
        """What came to that group that has got the least of those that get all."""
        return min(self.came[group] - self.doubled[group] for group in self._whole)

    def _take(self, sock: socket.socket) -> None:
        group, collector = self._collectors[sock]
        size = _HEAD.size + len(self._body)
        with suppress(BlockingIOError):
            while True:
                data, source = sock.recvfrom(2048)
                self.came[group] += 1
                sender, number = _HEAD.unpack_from(data) if len(data) == size else (0, len(self.got[group]))
                if number >= len(self.got[group]) or sender >= len(self._names) or any(data[_HEAD.size :]):
                    self.damaged += 1
                    continue
                self.strange += source[0] not in self._broker and source != self._names[sender]
                row = self.got[group][number]
                self.doubled[group] += row[sender] != 0
                row[sender] = collector


def wait_for(holds: Callable[[], bool], what: Callable[[], str], limit: float = _LIMIT) -> None:
    """Return once it holds; raises :class:`TemposError` with ``what`` if it does not within the limit."""
    end = time.monotonic() + limit
    while not holds():
        if time.monotonic() > end:
            raise TemposError(what())
        time.sleep(0.001)


def _socket(address: tuple[str, int], to: tuple[str, int] | None = None) -> socket.socket:
    """One in the calling thread's network: a sender's, or else a collector's."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(address)
    if to is not None:
        sock.connect(to)
    else:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        sock.setblocking(False)
    return sock


def _room_for(sockets: int) -> None:
    """Let this process open so many; raises :class:`TemposError` where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sockets + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise TemposError(
                f"{sockets} senders take {wanted} open files, and {hard} are allowed (ulimit -n)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
