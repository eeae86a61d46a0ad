#!/bin/sh
# A BPF program that is reached by tail calls has run 0 times, as the kernel's statistics say.
#
# Versions    Linux 6.18.44 (the running kernel is tried), Python 3. Needs root, for two BPF programs of its own, which are
#             attached to nothing.
# Expected    With kernel.bpf_stats_enabled (or BPF_ENABLE_STATS) run_cnt and run_time_ns of each program say how often it ran
#             and for how long; that is what `bpftool prog` shows, and what exporters and top-like tools add up.
# What it does  Only who is called first is counted. Its time is that of everything which it tail-calls as well; a program that
#             does all the work behind a tail call shows no run at all, as if it were never reached.
# Source      include/linux/filter.h, __bpf_prog_run(): counted around the first call; a tail call jumps from there. sysctl
#             kernel.bpf_stats_enabled in Documentation/admin-guide/sysctl/kernel.rst does not say it.
# For us      The fast path's programs make no tail calls, so what is measured of each is its own. Of a foreign program
#             "no run" is no proof that it does nothing.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

[ "$(id -u)" = 0 ] || { echo "needs root: it loads BPF programs" >&2; exit 2; }
[ "$(uname -m)" = x86_64 ] || { echo "the number of bpf(2) is known here for x86-64 only" >&2; exit 2; }
python3 - <<'SOURCE'
import ctypes, os, pathlib, struct, sys

BPF, MAP_CREATE, MAP_UPDATE, PROG_LOAD, TEST_RUN, ENABLE_STATS = 321, 0, 2, 5, 10, 32
PROG_ARRAY, XDP, TAIL_CALL, FELL_THROUGH, REACHED, ROUNDS = 3, 6, 12, 1, 2, 500
libc = ctypes.CDLL(None, use_errno=True)

def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    found = libc.syscall(BPF, command, buffer, len(attributes))
    if found < 0:
        print(f"bpf({command}): {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(2)
    return found, buffer.raw

def instruction(code, destination=0, source=0, value=0):
    return struct.pack("BBhi", code, source << 4 | destination, 0, value)

def load(*instructions):
    text = ctypes.create_string_buffer(b"".join(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    words = struct.pack("IIQQ", XDP, len(text.raw[:-1]) // 8, ctypes.addressof(text), ctypes.addressof(licence))
    return bpf(PROG_LOAD, words + bytes(96))[0]

def runs(program):
    lines = pathlib.Path(f"/proc/self/fdinfo/{program}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("run_cnt"))

bpf(ENABLE_STATS, struct.pack("I", 0))
callees, _ = bpf(MAP_CREATE, struct.pack("IIIII", PROG_ARRAY, 4, 4, 1, 0) + bytes(60))
second = load(instruction(0xB7, 0, value=REACHED), instruction(0x95))
key, value = ctypes.c_uint32(0), ctypes.c_uint32(second)
bpf(MAP_UPDATE, struct.pack("IIQQQ", callees, 0, ctypes.addressof(key), ctypes.addressof(value), 0) + bytes(40))
first = load(
    instruction(0x18, 2, 1, callees), instruction(0), instruction(0xB7, 3), instruction(0x85, value=TAIL_CALL),
    instruction(0xB7, 0, value=FELL_THROUGH), instruction(0x95))
frame = ctypes.create_string_buffer(64)
test = struct.pack("IIIIQQII", first, 0, 64, 0, ctypes.addressof(frame), 0, ROUNDS, 0) + bytes(40)
(verdict,) = struct.unpack_from("I", bpf(TEST_RUN, test)[1], 4)
which = {REACHED: "the second", FELL_THROUGH: "the first"}.get(verdict, verdict)
print(f"Linux {os.uname().release}; {ROUNDS} runs of a program that tail-calls another; the verdict is that of {which}")
print(f"  runs of the first {runs(first)}, of the second {runs(second)}")
sys.exit((verdict, runs(first), runs(second)) != (REACHED, ROUNDS, 0))
SOURCE
