"""What the kernel's verifier has against a program: its log, down to the line that says it.

The log is the verifier's walk through the program, thousands of lines; where it stops it says why, and
counts what it has done. Nothing in it is marked, so everything the walk is known to print is left out from
the end on. Pure functions over text; the forms are those of Linux 6.1 to 6.18.

    ; __u32 ip_len = bpf_ntohs(ip->tot_len); @ parse.h:95     source; from 6.8 on with its place
    72: (69) r3 = *(u16 *)(r9 +16)        ; R3_w=scalar()     instruction, and what is known after it
    from 12 to 15: R0=0 R1=ctx() R10=fp0                      where another branch begins
    math between pkt pointer and register with ...            why it stops
    processed 75 insns (limit 1000000) ...                    what it has done
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: As much of a message and of a line of source as a sentence bears.
_MESSAGE, _SOURCE = 160, 60
#: How many lines of one complaint are told; the last ones say it.
_LINES = 2

_SOURCE_LINE = re.compile(r"; (?P<text>.*?)(?: @ (?P<place>[^@\s]+:\d+))?\s*$")
_WALK = re.compile(
    r"""\s*$
    | ;\s                                            # source
    | \d+:(\s|$)                                     # an instruction, a state
    | \(?[0-9a-f]{2}\)\s                             # an instruction without its number
    | from\s\d+\sto\s\d+                             # another branch
    | \s+(frame\d+:?\s|R\d+|fp-)                     # a state that goes on
    | (R\d+|fp-\d+)(_[a-z]+)*=                       # a state by itself
    | frame\d+:
    | (caller|callee|returning\sfrom\scallee|to\scaller\sat\s\d+|cur\sstate|old\sstate)\b
    | (mark_precise|last_idx|regs=|parent\s|propagating|safe$)
    | (func|Func)\#\d+\s(@|is\sglobal)
    | Validating\s.*\sfunc\#\d+
    | (processed\s\d+\sinsns|verification\stime|stack\sdepth|max_states_per_insn|insns_processed)
    | BPF\sprogram\sload\sfailed
    | arg\#\d+\sreference\stype\('UNKNOWN\s'\)       # a remark of 5.x and 6.1 about every program
    """,
    re.VERBOSE,
)

#: What libbpf says of the consequences, or although all went well.
_CONSEQUENCE = re.compile(
    r"failed to load (object|program|BPF skeleton)|failed to load: -|BPF program load failed"
    r"|Retrying without BTF|skipping unrecognized|BTF is optional|RLIMIT_MEMLOCK"
)
_FAILED_PROGRAM = re.compile(r"prog '([^']+)': BPF program load failed")


@dataclass(frozen=True, slots=True)
class Cause:
    """Why the verifier stopped: its words, the line of C that it was at, and where that is, if it says so."""

    message: str
    source: str = ""
    place: str = ""

    def __str__(self) -> str:
        where = f"{self.place} " if self.place else ""
        return f"{self.message}, at {where}`{self.source}`" if self.source else self.message


def first_cause(log: str) -> Cause | None:
    """What a log ends with, or None where it says nothing, for instance because it did not fit."""
    lines = log.splitlines()
    end = len(lines)
    while end and _WALK.match(lines[end - 1]):
        end -= 1
    if not end:
        return None
    begin = end - 1
    while begin and end - begin < _LINES and not _WALK.match(lines[begin - 1]):
        begin -= 1
    message = _clip("; ".join(line.strip() for line in lines[begin:end]), _MESSAGE)
    for line in reversed(lines[:begin]):
        if found := _SOURCE_LINE.match(line):
            return Cause(message, _clip(found["text"].strip(), _SOURCE), found["place"] or "")
    return Cause(message)


def failed_program(words: str) -> str:
    """The program that libbpf's warnings say was refused; empty if it is none, but something else."""
    found = _FAILED_PROGRAM.search(words)
    return found[1] if found else ""


def first_warning(words: str) -> str:
    """The first of libbpf's warnings that is a cause, and no consequence; empty if there is none."""
    for line in words.splitlines():
        text = line.strip().removeprefix("libbpf: ")
        if text and not _CONSEQUENCE.search(text):
            return _clip(text, _MESSAGE)
    return ""


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 4].rstrip()} ..."
