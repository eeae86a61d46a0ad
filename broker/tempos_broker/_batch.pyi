# Types of the compiled module; broker/native/batch.cdef says what each function does.

from collections.abc import Sequence
from typing import Any, NewType

# These exist for the type checker only; at run time all of them are cffi's cdata.
CBatch = NewType("CBatch", object)
CMembers = NewType("CMembers", object)
CRuns = NewType("CRuns", object)

class CSendError:
    topic: int
    group: int
    epoch: int
    error: int
    count: int

class CSendErrors:
    def __getitem__(self, index: int) -> CSendError: ...

class _FFI:
    NULL: Any
    def new(self, declaration: str, init: object = ...) -> Any: ...
    def gc(self, cdata: Any, destructor: Any, size: int = ...) -> Any: ...
    def unpack(self, cdata: CRuns, length: int) -> list[int]: ...

class _Lib:
    TEMPOS_FRAMING_RAW: int
    TEMPOS_FRAMING_EVENT: int
    TEMPOS_MAX_GROUPS: int

    def tempos_batch_new(self, slots: int, slot_bytes: int, batch: int, copies: int) -> CBatch: ...
    def tempos_batch_free(self, b: CBatch) -> None: ...
    def tempos_batch_framing(self, b: CBatch, topic: int, framing: int) -> None: ...
    def tempos_batch_receive(self, b: CBatch, fd: int, runs: CRuns) -> int: ...
    def tempos_batch_after(self, b: CBatch, slot: int, count: int) -> int: ...
    def tempos_batch_release(self, b: CBatch, slot: int, count: int) -> None: ...
    def tempos_batch_free_slots(self, b: CBatch) -> int: ...
    def tempos_batch_segmenting(self, b: CBatch) -> int: ...
    def tempos_members_new(self, addresses: Sequence[int], ports: Sequence[int], count: int) -> CMembers: ...
    def tempos_members_free(self, members: CMembers) -> None: ...
    def tempos_batch_stage(
        self,
        b: CBatch,
        slot: int,
        count: int,
        members: CMembers,
        first_ticket: int,
        epoch: int,
        group: int,
        last: bool,
    ) -> int: ...
    def tempos_batch_flush(self, b: CBatch, errors: CSendErrors) -> int: ...
    def tempos_batch_abandon(self, b: CBatch, error: int, errors: CSendErrors) -> int: ...

ffi: _FFI
lib: _Lib
