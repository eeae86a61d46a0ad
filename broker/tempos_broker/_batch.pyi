# Types of the compiled module; broker/native/batch.cdef says what each function does.

from collections.abc import Sequence
from typing import Any, NewType

# These exist for the type checker only; at run time all of them are cffi's cdata.
CBatch = NewType("CBatch", object)
CMembers = NewType("CMembers", object)
CRuns = NewType("CRuns", object)
CReceipts = NewType("CReceipts", object)

class CSendError:
    topic: int
    group: int
    epoch: int
    error: int
    count: int
    address: int
    port: int
    size: int

class CNote:
    stage: int
    topic: int
    epoch: int
    count: int
    target: int
    drawn: int

class CTopic: ...

class CJournal:
    memory: Any
    slots: int
    cells: int
    bytes: int

class CJournalSlot:
    word: int
    ticket: int
    at_ns: int
    epoch: int
    length: int
    groups: int

class CNumbers:
    def __add__(self, index: int) -> CNumbers: ...

class CSendErrors:
    def __getitem__(self, index: int) -> CSendError: ...

class _FFI:
    NULL: Any
    def new(self, declaration: str, init: object = ...) -> Any: ...
    def gc(self, cdata: Any, destructor: Any, size: int = ...) -> Any: ...
    def unpack(self, cdata: CRuns, length: int) -> list[int]: ...
    def from_buffer(self, declaration: str, buffer: object, require_writable: bool = ...) -> Any: ...
    def release(self, cdata: Any) -> None: ...
    def cast(self, declaration: str, cdata: Any) -> Any: ...
    def sizeof(self, declaration: str) -> int: ...
    def buffer(self, cdata: Any, size: int) -> Any: ...

class _Lib:
    TEMPOS_FRAMING_RAW: int
    TEMPOS_FRAMING_EVENT: int
    TEMPOS_FRAMING_FOREIGN: int
    TEMPOS_MAX_GROUPS: int
    TEMPOS_OVERFLOW_DROP: int
    TEMPOS_OVERFLOW_PASS: int
    TEMPOS_BQ: int
    TEMPOS_SQ: int

    def tempos_batch_new(self, slots: int, slot_bytes: int, batch: int, copies: int) -> CBatch: ...
    def tempos_batch_free(self, b: CBatch) -> None: ...
    def tempos_batch_clock(self, b: CBatch, clock: bytes) -> None: ...
    def tempos_batch_framing(self, b: CBatch, topic: int, framing: int) -> None: ...
    def tempos_batch_sources(
        self, b: CBatch, topic: int, networks: Sequence[int], masks: Sequence[int], count: int
    ) -> None: ...
    def tempos_batch_refused_source(self, b: CBatch, topic: int) -> int: ...
    def tempos_batch_channels(
        self,
        b: CBatch,
        quality: int,
        fds: Sequence[int],
        addresses: Sequence[int],
        count: int,
        tos: int,
    ) -> None: ...
    def tempos_batch_receive(self, b: CBatch, fd: int, foreign: int, limit: int, runs: CRuns) -> int: ...
    def tempos_receipts_size(self, batch: int) -> int: ...
    def tempos_receipts_begin(self, r: CReceipts, batch: int, taken: int) -> None: ...
    def tempos_receipts_taken(self, r: CReceipts, batch: int) -> int: ...
    def tempos_receipts_gone(self, r: CReceipts) -> int: ...
    def tempos_batch_receipts(self, b: CBatch, r: CReceipts) -> None: ...
    def tempos_batch_after(self, b: CBatch, slot: int, count: int) -> int: ...
    def tempos_batch_release(self, b: CBatch, slot: int, count: int) -> None: ...
    def tempos_batch_bytes(self, b: CBatch, slot: int, length: Any) -> Any: ...
    def tempos_batch_requests(self, b: CBatch, topic: int, slot: int, count: int, found: Any) -> int: ...
    def tempos_batch_free_slots(self, b: CBatch) -> int: ...
    def tempos_batch_segmenting(self, b: CBatch) -> int: ...
    def tempos_members_new(
        self,
        addresses: Sequence[int],
        ports: Sequence[int],
        sources: Sequence[int],
        left_out: Sequence[int],
        count: int,
    ) -> CMembers: ...
    def tempos_members_free(self, members: CMembers) -> None: ...
    def tempos_batch_stage(
        self,
        b: CBatch,
        quality: int,
        topic: int,
        slot: int,
        count: int,
        members: CMembers,
        first_ticket: int,
        epoch: int,
        group: int,
        last: bool,
    ) -> int: ...
    def tempos_batch_flush(self, b: CBatch, quality: int, most: int, errors: CSendErrors) -> int: ...
    def tempos_batch_staged(self, b: CBatch, quality: int) -> int: ...
    def tempos_batch_abandon(self, b: CBatch, quality: int, error: int, errors: CSendErrors) -> int: ...
    def tempos_threads_keep(self, capabilities: int) -> int: ...
    def tempos_shared_add(self, at: CNumbers, count: int) -> int: ...
    def tempos_shared_load(self, at: CNumbers) -> int: ...
    def tempos_shared_store(self, at: CNumbers, value: int) -> None: ...
    def tempos_topic_set(self, topic: CTopic, quality: int, overflow: int, rate: int, burst: int) -> None: ...
    def tempos_limit_take(self, topic: CTopic, clock_offset_ns: int, wanted: int) -> int: ...
    def tempos_journal_first(self, v: CJournal, epoch: int) -> int: ...
    def tempos_journal_begin(self, v: CJournal, epoch: int, drawn: int) -> None: ...
    def tempos_journal_now(self) -> int: ...
    def tempos_journal_put(
        self,
        v: CJournal,
        position: int,
        epoch: int,
        tickets: Sequence[int],
        groups: int,
        payload: Any,
        length: int,
        at_ns: int,
    ) -> int: ...
    def tempos_journal_read(
        self, v: CJournal, position: int, head: CJournalSlot, tickets: Any, payload: Any
    ) -> int: ...
    def tempos_journal_scan(self, v: CJournal, after: int, found: Any) -> int: ...
    def tempos_journal_find(
        self, v: CJournal, first: int, epoch: int, group: int, ticket: int, reach: int
    ) -> int: ...
    def tempos_journal_mend(self, v: CJournal) -> int: ...
    def tempos_journal_follow(self, v: CJournal, source: CJournal) -> None: ...
    def tempos_batch_journal(
        self,
        b: CBatch,
        v: CJournal,
        slot: int,
        count: int,
        epoch: int,
        first_tickets: Sequence[int],
        groups: int,
    ) -> int: ...
    def tempos_shared_draw(
        self,
        note: CNote,
        forwarded: CNumbers,
        counted: CNumbers,
        ticket: CNumbers,
        topic: int,
        epoch: int,
        group: int,
        count: int,
    ) -> int: ...

ffi: _FFI
lib: _Lib
