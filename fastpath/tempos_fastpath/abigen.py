"""Write clients/tempos/_abi.py from fastpath/bpf/abi.h, or check that it is up to date.

So it does with what the client in TypeScript needs of it.
``python -m tempos_fastpath.abigen`` writes, ``--check`` compares and exits 1 on a difference. cffi
parses the header, so the values and offsets are a C parser's, not a regular expression's; only the
one-line descriptions of the reasons are read as text.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "fastpath" / "bpf" / "abi.h"
#: Beside it, what of the maps' contents only programs know, and how two of them act on it together.
_BESIDE = "maps beside topics copies fanout latency buckets journal journal_write spread meant sieve"
KERNEL_SIDE = tuple(HEADER.with_name(f"{name}.h") for name in _BESIDE.split())
TARGET = ROOT / "clients" / "tempos" / "_abi.py"
TYPESCRIPT = ROOT / "clients" / "typescript" / "src" / "abi.ts"
#: What of the constants data on the wire are made of.
_ON_THE_WIRE = re.compile(
    "(DATA|CONTROL)_PORT|WIRE_VERSION|EVENT_HEADER_LEN|BATCH_LENGTH_LEN|NARROW|TOPIC_M.*"
    "|(FLAG|ENVELOPE|KIND|WIDE|SERVICE|OFFSET|PROBE)(_.*)?"
)

TYPES = """
typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef unsigned long long __u64;
typedef uint16_t __be16; typedef uint32_t __be32; typedef unsigned long long __be64;
"""
CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}

PREAMBLE = '''"""Constants and layouts shared with the C side. Generated from fastpath/bpf/abi.h; do not edit.

To change it, edit the header and run ``python -m tempos_fastpath.abigen``.
"""

import enum
import struct
'''


def declarations() -> str:
    """The part of ``abi.h`` that C and Python share, as cffi's ``cdef`` takes it."""
    return TYPES + HEADER.read_text().split("/* ABI-BEGIN */")[1].split("/* ABI-END */")[0]


def fingerprint() -> int:
    """A number for the layout of the maps that outlive a broker: another layout, another number.

    Over structs, constants, map definitions and what two programs do in turn, without the comments.
    """
    text = declarations() + "".join(path.read_text() for path in KERNEL_SIDE)
    bare = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    return int.from_bytes(hashlib.sha256(" ".join(bare.split()).encode()).digest()[:8], "big")


def generate() -> str:
    """The text of ``_abi.py``."""
    public = declarations()
    ffi = FFI()
    ffi.cdef(public)
    lib = ffi.dlopen(None)
    out = [PREAMBLE]
    names = re.findall(r"^#define TEMPOS_(\w+)", public, re.MULTILINE)
    out += [f"{name} = {getattr(lib, 'TEMPOS_' + name)}" for name in names]
    out += ["", "#: Of the layout of everything the kernel keeps from one broker to the next.",
            f"ABI_FINGERPRINT = {fingerprint():#018x}"]  # fmt: skip
    out.append("")
    out += _enum(ffi, "Reason", "tempos_reason", "TEMPOS_", "How a datagram left a data path.", public)
    out.append("")
    way = "How the kernel carries a topic, that is who makes the copies for its groups."
    out += _enum(ffi, "Way", "tempos_way", "TEMPOS_WAY_", way, public)
    out.append("")
    tags = "How an XDP program learns of a VLAN tag that was taken off a frame before it runs."
    out += _enum(ffi, "Tags", "tempos_tags", "TEMPOS_TAGS_", tags, public)
    out.append("")
    out += _wire_struct(ffi, "event_header", "The event header")
    out += [f"OFFSET_{name.upper()} = {field.offset}" for name, field in _fields(ffi, "event_header")]
    out += ["", *_wire_struct(ffi, "envelope", "What stands behind it with FLAG_ENVELOPE")]
    out += [f"ENVELOPE_{name.upper()} = {field.offset}" for name, field in _fields(ffi, "envelope")]
    out += ["", *_wire_struct(ffi, "probe", "What a probe and its report begin with")]
    out += [f"PROBE_{name.upper()} = {field.offset}" for name, field in _fields(ffi, "probe")]
    return "\n".join(out) + "\n"


def generate_typescript() -> str:
    """The text of ``abi.ts``."""
    found = re.findall(r"^([A-Z]\w*) = (\d+)$", generate(), re.MULTILINE)
    lines = [f"export const {name} = {value};" for name, value in found if _ON_THE_WIRE.fullmatch(name)]
    return "\n".join(
        (
            "// SPDX-License-Identifier: Apache-2.0",
            "// Generated from fastpath/bpf/abi.h by python -m tempos_fastpath.abigen; do not edit.",
            "",
            *lines,
            "",
        )
    )


def _enum(ffi: Any, name: str, c_name: str, prefix: str, doc: str, text: str) -> list[str]:
    described = dict(re.findall(r"(TEMPOS_\w+)[^,\n]*,?\s*/\* (.*?) \*/", text))
    values = ffi.typeof(f"enum {c_name}").elements
    lines = ["", f"class {name}(enum.IntEnum):", f'    """{doc}"""', ""]
    kept = [(value, c) for value, c in sorted(values.items()) if c != "TEMPOS_REASONS"]
    lines += [f"    {c.removeprefix(prefix)} = {value}" for value, c in kept]
    lines += [
        "",
        "    @property",
        "    def label(self) -> str:",
        '        """The name in output, metrics and documentation."""',
        "        return self.name.lower()",
        "",
        "",
        "#: What each of them means, for people.",
        f"{name.upper()}_TEXTS = {{",
    ]
    lines += [f"    {name}.{c.removeprefix(prefix)}: {described[c]!r}," for _, c in kept]
    return [*lines, "}"]


def _fields(ffi: Any, name: str) -> list[tuple[str, Any]]:
    return list(ffi.typeof(f"struct tempos_{name}").fields)


def _wire_struct(ffi: Any, name: str, doc: str) -> list[str]:
    """A struct as it lies on the wire, for Python's own `struct`."""
    layout, fields = ffi.typeof(f"struct tempos_{name}"), _fields(ffi, name)
    assert ffi.sizeof(layout) == sum(ffi.sizeof(field.type) for _, field in fields), f"padding in {name}"
    codes = "".join(
        f"{field.type.length}s" if field.type.kind == "array" else CODES[ffi.sizeof(field.type)]
        for _, field in fields
    )
    return [
        f"#: {doc}: {', '.join(name for name, _ in fields)}.",
        f'{name.upper()} = struct.Struct("!{codes}")',
    ]


def main(argv: list[str] | None = None) -> int:
    """Command entry point; the exit code is 1 if ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if out of date")
    options = parser.parse_args(argv)
    found = 0
    for target, text in ((TARGET, generate()), (TYPESCRIPT, generate_typescript())):
        if not options.check:
            target.write_text(text)
        elif not target.exists() or target.read_text() != text:
            print(f"{target.relative_to(ROOT)} is not what {HEADER.relative_to(ROOT)} says; run "
                  "python -m tempos_fastpath.abigen", file=sys.stderr)  # fmt: skip
            found = 1
    return found


if __name__ == "__main__":
    sys.exit(main())
