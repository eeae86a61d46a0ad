#!/bin/sh
# What user space looks up in a BPF map of kind LRU is the first to be thrown out; what a program looks up stays.
#
# Versions    Linux 6.18.44 (the running kernel is tried; so since 5.2), Python 3. Needs root, for a BPF program of its
#             own, which is attached to nothing.
# Expected    BPF_MAP_TYPE_LRU_HASH throws out what was least recently used, and a look-up is a use, whoever does it: the
#             entry that a daemon asks for before each new one is the last that goes. And nothing goes before there
#             are more entries than max_entries.
# What it does  bpf_map_lookup_elem() of bpf(2) is no use at all: that entry goes as if nobody had ever asked for it,
#             while the same call in a program keeps it, and so does writing it anew by bpf(2). And of a map that
#             is filled with exactly as many different keys as it may have, some are gone before it is full.
# Source      Linux commit 50b045a8c0cc (5.2), htab_lru_map_lookup_elem_sys(); kernel/bpf/bpf_lru_list.c: each CPU takes
#             free nodes, and shrinks the list for them, many at a time. Documentation/bpf/map_hash.rst says neither.
# For us      The fast path's maps of this kind are asked by its program, which is what keeps an entry; they are caches, an
#             entry that is gone is learnt anew (fastpath/bpf/maps.h).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

[ "$(id -u)" = 0 ] || { echo "needs root: it loads a BPF program" >&2; exit 2; }
[ "$(uname -m)" = x86_64 ] || { echo "the number of bpf(2) is known here for x86-64 only" >&2; exit 2; }

python3 - <<'SOURCE'
import ctypes, os, struct, sys

BPF, MAP_CREATE, LOOKUP, UPDATE, PROG_LOAD, TEST_RUN = 321, 0, 1, 2, 5, 10
LRU_HASH, XDP = 9, 6
ROOM = 1000
libc = ctypes.CDLL(None, use_errno=True)

def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    found = libc.syscall(BPF, command, buffer, len(attributes))
    return found if found >= 0 else -ctypes.get_errno()

def made(number, what):
    if number < 0:
        print(f"{what}: {os.strerror(-number)}", file=sys.stderr)
        sys.exit(2)
    return number

def new_map():
    return made(bpf(MAP_CREATE, struct.pack("IIIII", LRU_HASH, 4, 4, ROOM, 0) + bytes(60)), "a map")

def element(command, of, number):
    key, value = ctypes.c_uint32(number), ctypes.c_uint32(number)
    words = struct.pack("IIQQQ", of, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
    return bpf(command, words + bytes(40)) >= 0

def instruction(code, destination=0, source=0, offset=0, value=0):
    return struct.pack("BBhi", code, source << 4 | destination, offset, value)

def program_that_looks_up(of):
    """Key 0 of that map, and nothing else."""
    text = ctypes.create_string_buffer(b"".join((
        instruction(0x62, 10, 0, -4, 0), instruction(0xBF, 2, 10), instruction(0x07, 2, value=-4),
        instruction(0x18, 1, 1, value=of), instruction(0), instruction(0x85, value=1),
        instruction(0xB7, 0, value=2), instruction(0x95))))
    licence = ctypes.create_string_buffer(b"GPL")
    words = struct.pack("IIQQ", XDP, len(text.raw[:-1]) // 8, ctypes.addressof(text), ctypes.addressof(licence))
    return made(bpf(PROG_LOAD, words + bytes(96)), "a program")

def run(program):
    frame = ctypes.create_string_buffer(64)
    words = struct.pack("IIIIQQII", program, 0, 64, 0, ctypes.addressof(frame), 0, 1, 0)
    made(bpf(TEST_RUN, words + bytes(40)), "a run of the program")

def stays(use):
    """Whether key 0 is there after four times as many others as there is room for, if it is used before each."""
    of = new_map()
    program = program_that_looks_up(of)
    for number in range(4 * ROOM):
        element(UPDATE, of, number)
        use(of, program)
    return element(LOOKUP, of, 0)

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
filled = new_map()
for number in range(ROOM):
    element(UPDATE, filled, number)
kept = sum(element(LOOKUP, filled, number) for number in range(ROOM))
seen = {
    "by nobody": stays(lambda of, program: None),
    "by bpf(2), look-up": stays(lambda of, program: element(LOOKUP, of, 0)),
    "by bpf(2), update": stays(lambda of, program: element(UPDATE, of, 0)),
    "by a program, look-up": stays(lambda of, program: run(program)),
}
print(f"Linux {os.uname().release}; an entry that is used before each new one")
for who, there in seen.items():
    print(f"  {who:24}{'stays' if there else 'is thrown out'}")
print(f"of {ROOM} entries in a map of {ROOM}, {kept} are there")
sys.exit(list(seen.values()) != [False, False, True, True] or not 0 < kept < ROOM)
SOURCE
