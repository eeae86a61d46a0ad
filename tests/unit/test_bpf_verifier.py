"""The first cause out of a verifier's log, as Linux 6.1 to 6.18 write it, and out of libbpf's warnings."""

from __future__ import annotations

import errno

import pytest

from tempos.errors import one_line
from tempos_bpf.errors import BpfError, InterfaceBusy, ProgramRefused
from tempos_bpf.verifier import Cause, failed_program, first_cause, first_warning

#: Linux 6.1: source without its place; a remark about every program at the top.
SWAPPED_6_1 = """\
arg#0 reference type('UNKNOWN ') size cannot be determined: -22
0: R1=ctx(off=0,imm=0) R10=fp0
; int tempos_fastpath(struct xdp_md *ctx)
0: (bf) r6 = r1                       ; R1=ctx(off=0,imm=0) R6_w=ctx(off=0,imm=0)
; __u32 ip_len = bpf_ntohs(packet->ip->tot_len);
72: (69) r3 = *(u16 *)(r9 +16)        ; R3_w=scalar(umax=65535,var_off=(0x0; 0xffff))
73: (dc) r3 = be16 r3                 ; R3_w=scalar()
; if ((void *)packet->ip + ip_len > cursor->end ||
74: (0f) r2 += r3
math between pkt pointer and register with unbounded min value is not allowed
processed 75 insns (limit 1000000) max_states_per_insn 0 total_states 3 peak_states 3 mark_read 2
"""

#: Linux 6.1: two lines of complaint, no source but the function's first.
UNTYPED_6_1 = """\
reg type unsupported for arg#0 function tempos_refused#20
0: R1=ctx(off=0,imm=0) R10=fp0
; int BPF_PROG(tempos_refused, const struct net_device *dev, const struct bpf_prog *xdp, const void *target,
0: (79) r3 = *(u64 *)(r1 +16)
func 'xdp_redirect_err' arg2 type UNKNOWN is not a struct
invalid bpf_context access off=16 size=8
processed 1 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""

#: Linux 6.12: source with its place; branches, frames and states of callers in between.
NULL_6_12 = """\
0: R1=ctx() R10=fp0
; __u64 *value = bpf_map_lookup_elem(&numbers, &key); @ refused.bpf.c:14
6: (85) call bpf_map_lookup_elem#1    ; R0_w=map_value_or_null(id=1,map=numbers,ks=4,vs=8)
from 8 to 10: R0=0 R1_w=1 R10=fp0
10: R0=0 R1_w=1 R10=fp0
caller:
 R6=ctx() R10=fp0
callee:
 frame1: R1=ctx() R10=fp0
; return (int)*value; @ refused.bpf.c:15
7: (79) r0 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'
processed 8 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""

#: Linux 6.18: what it has found follows the message.
LOOP_6_18 = """\
; while (x) { __asm__ volatile(""); } @ loops.bpf.c:19
4: (61) r1 = *(u32 *)(r10 -4)         ; R1=scalar(smin=0,smax=umax=0xffffffff) R10=fp0 fp-8=mmmm????
5: (56) if w1 != 0x0 goto pc-2 ; while (x) { __asm__ volatile(""); } @ loops.bpf.c:19
infinite loop detected at insn 4
cur state: R1=scalar(smin=umin=umin32=1,smax=umax=0xffffffff) R10=fp0 fp-8=mmmm????
old state: R1=scalar(smin=umin=umin32=1,smax=umax=0xffffffff) R10=fp0 fp-8=mmmm????
processed 13 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 0
"""

#: Linux 6.18: nothing was walked through yet, or no source was kept.
STACK_6_18 = """\
combined stack size of 2 calls is 608. Too large
processed 27 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 0
"""

#: The beginning of a log that did not fit.
CUT = """\
0: R1=ctx() R10=fp0
; void *data = (void *)(long)ctx->data; @ refused.bpf.c:7
0: (61) r1 = *(u32 *)(r1 +0)          ; R1=pkt(r=0)
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (
            SWAPPED_6_1,
            Cause(
                "math between pkt pointer and register with unbounded min value is not allowed",
                "if ((void *)packet->ip + ip_len > cursor->end ||",
            ),
        ),
        (
            UNTYPED_6_1,
            Cause(
                "func 'xdp_redirect_err' arg2 type UNKNOWN is not a struct; "
                "invalid bpf_context access off=16 size=8",
                "int BPF_PROG(tempos_refused, const struct net_device *de ...",
            ),
        ),
        (
            NULL_6_12,
            Cause("R0 invalid mem access 'map_value_or_null'", "return (int)*value;", "refused.bpf.c:15"),
        ),
        (
            LOOP_6_18,
            Cause(
                "infinite loop detected at insn 4", 'while (x) { __asm__ volatile(""); }', "loops.bpf.c:19"
            ),
        ),
        (STACK_6_18, Cause("combined stack size of 2 calls is 608. Too large")),
        (CUT, None),
        ("", None),
    ],
)
def test_the_line_that_says_why_is_found_with_its_source(log: str, cause: Cause | None) -> None:
    assert first_cause(log) == cause


def test_a_refused_program_is_one_sentence_and_keeps_the_whole_log() -> None:
    words = (
        "libbpf: prog 'tempos_fastpath': BPF program load failed: Invalid argument\n"
        "libbpf: prog 'tempos_fastpath': failed to load: -22\n"
        "libbpf: failed to load object 'fastpath'\n"
    )
    assert failed_program(words) == "tempos_fastpath"
    log = SWAPPED_6_1.replace("; if", "\n".join(["; x = 1;"] * 50_000) + "\n; if")
    refused = ProgramRefused("tempos_fastpath", "fastpath.bpf.o", errno.EINVAL, words, log)
    assert (
        str(refused)
        == one_line(refused)
        == (
            "the kernel's verifier refused the program tempos_fastpath of fastpath.bpf.o: "
            "math between pkt pointer and register with unbounded min value is not allowed, at "
            "`if ((void *)packet->ip + ip_len > cursor->end ||`"
        )
    )
    assert refused.log == log
    assert refused.errno == errno.EINVAL


def test_a_log_that_says_nothing_is_told_as_that() -> None:
    refused = ProgramRefused("long", "long.bpf.o", errno.ENOSPC, "", CUT)
    assert str(refused).endswith("long of long.bpf.o: No space left on device, and its log does not say why")


def test_what_libbpf_says_first_is_the_cause_and_its_consequences_are_left_out() -> None:
    words = (
        "libbpf: Error in bpf_create_map_xattr(routes):Invalid argument(-22). Retrying without BTF.\n"
        "libbpf: map 'routes': failed to create: Invalid argument(-22)\n"
        "libbpf: failed to load object 'fastpath'\n"
    )
    assert failed_program(words) == ""
    assert first_warning(words) == "map 'routes': failed to create: Invalid argument(-22)"
    error = BpfError("the kernel refused the BPF object fastpath", errno.EINVAL, words)
    assert str(error) == (
        "the kernel refused the BPF object fastpath: Invalid argument "
        "(map 'routes': failed to create: Invalid argument(-22))"
    )
    assert error.words == words.strip()
    assert first_warning("libbpf: failed to load object 'x'\n\n") == ""


def test_no_error_of_bpf_has_a_second_line() -> None:
    words = "libbpf: one\nlibbpf: two\n"
    for error in (
        BpfError("what", errno.EINVAL, words),
        BpfError("what", errno.EPERM, words),
        InterfaceBusy("eth0", "theirs", 7, "generic"),
        ProgramRefused("p", "o", errno.EACCES, words, NULL_6_12),
    ):
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("mode", "words"),
    [("native", "xdpdrv off"), ("generic", "xdpgeneric off"), ("offloaded", "xdpoffload off")],
)
def test_a_program_in_the_way_comes_off_by_the_name_of_its_mode(mode: str, words: str) -> None:
    said = str(InterfaceBusy("eth0", "theirs", 7, mode))
    assert f"(id 7) in {mode} mode" in said
    assert f"ip link set dev eth0 {words}" in said


def test_a_text_for_one_line_is_one_line_and_bounded() -> None:
    assert one_line(ValueError(" one\n\n  two ")) == "one; two"
    assert one_line(ValueError("x" * 5000)) == "x" * 796 + " ..."
    assert one_line(ValueError("")) == "ValueError('')"
    assert one_line("Error: one.\nWe have an error\n") == "Error: one.; We have an error"
    assert one_line("\n") == ""
