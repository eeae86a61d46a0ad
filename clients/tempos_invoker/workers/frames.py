"""The records between the invoker and a worker, over one AF_UNIX SOCK_SEQPACKET pair: bytes in, values out.

A message is one or more records, each a fixed head in little-endian order and then its body; there is no
padding. A message has at most :data:`MESSAGE` bytes, so a body has at most :data:`LARGEST_BODY` and an output
:data:`LARGEST_OUTPUT`. The first message to a worker is its specification, JSON without a head. The worker's
first record says hello (condition :data:`HELLO`): JSON in place of an output.

The same structs stand in `clients/native/functions.cdef` for workers that run compiled functions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

#: Bytes of the longest message, either way.
MESSAGE = 128 * 1024

#: length, flags, ticket, publisher, sequence, sent_ns, deadline_ns, attempt, place.
CALL = struct.Struct("<IIQIIQQII")
#: length, condition, flags, ticket, started_ns, ended_ns.
ANSWER = struct.Struct("<IHHQQQ")

LARGEST_BODY = MESSAGE - CALL.size
LARGEST_OUTPUT = MESSAGE - ANSWER.size

#: Flag of a call: it is none, but tells what a place is (JSON); nobody answers it.
PLACE = 1
#: Flag of a call: nobody wants its output. If it succeeds, a worker that has said so (``notes`` in its hello)
#: does not answer, but notes it in the memory that both have; whatever else comes of it is answered.
QUIET = 2
#: Flag of a call: it is none, but gives a worker a turn at a data socket, or ends it (:mod:`.direct`).
TURN = 4
#: Flag of an answer: the function gave nothing, which is not the same as nothing in it.
NOTHING = 1
#: Flag of an answer: the CPU budget made the worker sleep meanwhile.
HELD = 2
#: The conditions of hello, and of a worker that has ended a turn, whose number the ticket is.
HELLO, OVER = 0xFFFF, 0xFFFE


class Condition(IntEnum):
    """How an invocation ended, as a worker tells it."""

    SUCCEEDED = 0
    ERROR = 1
    REFUSED = 2
    TOO_LARGE = 3
    TIMEOUT = 4
    #: What the function itself ran in crashed, and not the worker: its process, or its instance.
    CRASH = 5


#: ``new_call(Call, fields)``: what a NamedTuple's own constructor does, in half the time.
new_call = _new = tuple.__new__


class FrameError(ValueError):
    """A message that is not made of whole records."""


class Call(NamedTuple):
    """One event for a worker's function.

    ``ticket``: the invoker's own number, which the answer repeats. ``sent_ns``: the publisher's wall clock.
    ``deadline_ns``: CLOCK_MONOTONIC, 0 for none. ``place``: which workflow, step and topic, by a number told
    before (:data:`PLACE`).
    """

    ticket: int
    body: bytes
    publisher: int = 0
    sequence: int = 0
    sent_ns: int = 0
    deadline_ns: int = 0
    attempt: int = 1
    place: int = 0
    flags: int = 0

    def encode(self) -> bytes:
        """The record."""
        return (
            CALL.pack(
                len(self.body),
                self.flags,
                self.ticket,
                self.publisher,
                self.sequence,
                self.sent_ns,
                self.deadline_ns,
                self.attempt,
                self.place,
            )
            + self.body
        )


class Answer(NamedTuple):
    """What became of a call.

    ``output``: the function's, or in UTF-8 what went wrong. Times: CLOCK_MONOTONIC.
    """

    ticket: int
    condition: int
    output: bytes
    started_ns: int = 0
    ended_ns: int = 0
    flags: int = 0

    def encode(self) -> bytes:
        """The record."""
        head = ANSWER.pack(
            len(self.output), self.condition, self.flags, self.ticket, self.started_ns, self.ended_ns
        )
        return head + self.output


def calls(message: bytes) -> Iterator[Call]:
    """The calls in a message; raises :class:`FrameError` behind those that are whole."""
    at, end = 0, len(message)
    while at < end:
        if end - at < CALL.size:
            raise FrameError(f"{end - at} bytes are left of a message, a call's head has {CALL.size}")
        length, flags, ticket, publisher, sequence, sent, deadline, attempt, place = CALL.unpack_from(
            message, at
        )
        at += CALL.size
        if length > end - at:
            raise FrameError(f"a call's body should have {length} bytes, {end - at} are left of the message")
        body = message[at : at + length]
        at += length
        yield _new(Call, (ticket, body, publisher, sequence, sent, deadline, attempt, place, flags))


def answers(message: bytes) -> Iterator[Answer]:
    """The answers in a message; raises :class:`FrameError` behind those that are whole."""
    at, end = 0, len(message)
    while at < end:
        if end - at < ANSWER.size:
            raise FrameError(f"{end - at} bytes are left of a message, an answer's head has {ANSWER.size}")
        length, condition, flags, ticket, started, ended = ANSWER.unpack_from(message, at)
        at += ANSWER.size
        if length > end - at:
            raise FrameError(f"an output should have {length} bytes, {end - at} are left of the message")
        output = message[at : at + length]
        at += length
        yield _new(Answer, (ticket, condition, output, started, ended, flags))
