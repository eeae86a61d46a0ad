"""Loading and attaching a tool: what this kernel has of its hooks, and in words what it has not.

Found by trying, never by the kernel's version. A hook that the tool cannot do without ends it; any other
leaves out what it would have shown, and says so.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tempos import LocalError, Unavailable
from tempos_bpf.errors import BpfError, ProgramRefused
from tempos_bpf.layouts import kernel_types
from tempos_bpf.links import Link
from tempos_bpf.objects import BpfObject, program_sections
from tempos_bpf.tracing import attach
from tempos_observe.tool import Hook, Tool
from tempos_observe.wishes import Wishes

FOLDER = Path(__file__).resolve().parents[1]
#: The frame's own program in every object: children of the processes that were asked for are asked for, too.
FOLLOW = "tempos_follow"
#: Ends the name of a program that does another's work while that is interrupted, behind it at its hook.
_TWIN = "_amid"
_COMM_LEN = 16
_TRACEPOINTS = ("tp_btf",)
#: What only runs when somebody asks for it.
_WHEN_ASKED = ("iter", "raw_tp")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tool at work. ``hooked``, ``left_out``: its hooks in words. ``has``: its programs that are there."""

    object: BpfObject
    links: list[Link]
    hooked: tuple[str, ...]
    left_out: tuple[str, ...]
    has: frozenset[str]

    def detach(self) -> None:
        """Take the programs off; what they counted can still be read. Safe to call twice."""
        while self.links:
            self.links.pop().close()

    def close(self) -> None:
        self.detach()
        self.object.close()

    def lost(self) -> dict[str, int]:
        """How many of what had no room, and how often a program was left out since it was running already."""
        found = {name.replace("_", " "): count for name, count in self.object.variables("lost_").items()}
        caught = self.object.variables("caught_")
        for program in self.object.programs:
            missed = program.info().recursion_misses - caught.get(program.name, 0)
            if missed > 0 and not program.name.endswith(_TWIN):
                found[f"runs of {program.name}"] = missed
        return found


def load(tool: Tool, wishes: Wishes, watch: Callable[[BpfObject], None] | None) -> Loaded:
    """Load a tool's programs and attach them. Raises :class:`Unavailable` with what is missing here.

    ``watch``: fills in which processes are asked for, once it is seen to that their children follow.
    """
    try:
        return _Loading(tool, wishes).load(watch)
    except ProgramRefused:
        raise
    except BpfError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise Unavailable("this needs root, or CAP_BPF and CAP_PERFMON") from error
        raise


class _Loading:
    def __init__(self, tool: Tool, wishes: Wishes) -> None:
        self._tool = tool
        self._wishes = wishes
        self._path = FOLDER / f"{tool.programs}.bpf.o"
        self._sections = program_sections(self._path)
        self._why_not: dict[str, str] = {}

    def load(self, watch: Callable[[BpfObject], None] | None) -> Loaded:
        own = self._wishes.own
        hooks = [hook for hook in self._tool.hooks if not hook.only_with or own.get(hook.only_with)]
        for hook in hooks:
            self._foresee(hook)
        while True:
            chosen = self._chosen(hooks)
            try:
                loaded = self._load([hook.program for hook in chosen], follow=watch is not None)
            except ProgramRefused as refusal:
                self._leave_out(chosen, refusal.program, str(refusal))
                continue
            links: list[Link] = []
            try:
                if watch is not None:
                    links.append(attach(loaded.program(FOLLOW)))
                    watch(loaded)
                refused = self._attach(loaded, chosen, links)
            except BaseException:
                for link in links:
                    link.close()
                loaded.close()
                raise
            if refused is None:
                return self._whole(loaded, links, hooks, chosen)
            for link in links:
                link.close()
            loaded.close()
            self._leave_out(chosen, refused[0].program, refused[1])

    def _foresee(self, hook: Hook) -> None:
        """A tracepoint that the kernel does not have would keep the whole object from being loaded."""
        try:
            if hook.needs is not None:
                hook.needs()
        except Unavailable as missing:
            self._why_not[hook.program] = str(missing)
            return
        kind, _, name = self._section(hook.program).partition("/")
        if kind in _TRACEPOINTS and not kernel_types().has_tracepoint(name):
            self._why_not[hook.program] = f"it has no tracepoint {name}"

    def _section(self, program: str) -> str:
        if program not in self._sections:
            raise LocalError(
                f"{self._path.name} has no program {program!r}; it has {', '.join(self._sections)}"
            )
        return self._sections[program]

    def _chosen(self, hooks: list[Hook]) -> list[Hook]:
        """What can be tried now. Raises :class:`Unavailable` where what must be there is missing."""
        there = [hook for hook in hooks if hook.program not in self._why_not]
        names = {hook.program for hook in there}
        stand_ins = {hook.instead_of for hook in there if hook.instead_of}
        for hook in hooks:
            if hook.program not in names and hook.without is None and hook.program not in stand_ins:
                raise Unavailable(f"this kernel cannot say it: {hook.what}: {self._why_not[hook.program]}")
        return [hook for hook in there if hook.instead_of not in names]

    def _leave_out(self, chosen: list[Hook], program: str, why: str) -> None:
        program = program.removesuffix(_TWIN)
        if program not in {hook.program for hook in chosen}:
            raise Unavailable(why)
        self._why_not[program] = why

    def _load(self, programs: list[str], *, follow: bool) -> BpfObject:
        wishes, rodata = self._wishes, dict(self._tool.rodata(self._wishes) if self._tool.rodata else {})
        filters = _filters(wishes, several=follow) if self._tool.by_process else {}
        also = [*programs, FOLLOW] if follow else [*programs]
        also += [twin for each in programs if (twin := each + _TWIN) in self._sections]
        return BpfObject(self._path, {**filters, **rodata}, also=also, sizes=self._sizes())

    def _sizes(self) -> Mapping[str, int]:
        return self._tool.sizes(self._wishes) if self._tool.sizes else {}

    def _attach(self, loaded: BpfObject, chosen: list[Hook], links: list[Link]) -> tuple[Hook, str] | None:
        """Attach all; the hook that could not be, and why."""
        for hook in chosen:
            program = loaded.program(hook.program)
            if program.section.partition("/")[0] in _WHEN_ASKED:
                continue
            try:
                if hook.at is not None:
                    links += hook.at.attach(program, self._wishes)
                else:
                    links.append(attach(program))
                    if hook.program + _TWIN in self._sections:
                        links.append(attach(loaded.program(hook.program + _TWIN)))
            except BpfError as error:
                if error.errno in (errno.EPERM, errno.EACCES):
                    raise
                return hook, str(error)
            except Unavailable as error:
                return hook, str(error)
        return None

    def _whole(self, loaded: BpfObject, links: list[Link], hooks: list[Hook], chosen: list[Hook]) -> Loaded:
        names = {hook.program for hook in chosen}
        left_out = tuple(
            f"{hook.without}: {self._why_not[hook.program]}"
            for hook in hooks
            if hook.program in self._why_not and hook.without
        )
        return Loaded(loaded, links, tuple(hook.what for hook in chosen), left_out, frozenset(names))


def _filters(wishes: Wishes, *, several: bool) -> dict[str, bytes]:
    filters = {"own_pid": os.getpid().to_bytes(4, sys.byteorder)}
    if several:
        filters["only_watched"] = b"\x01"
    elif wishes.pids:
        (pid,) = wishes.pids
        filters["only_pid"] = pid.to_bytes(4, sys.byteorder)
    if wishes.comm:
        filters["only_comm"] = b"\x01"
        filters["the_comm"] = wishes.comm.encode()[: _COMM_LEN - 1].ljust(_COMM_LEN, b"\0")
    return filters
