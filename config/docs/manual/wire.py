"""The wire format: WIRE.md, and beside it what the header that all share says itself."""

from __future__ import annotations

import re
from pathlib import Path

from manual.text import block

ROOT = Path(__file__).resolve().parents[3]
HEADER = ROOT / "fastpath" / "bpf" / "abi.h"
#: What of the header is about datagrams; the rest is between the broker and the kernel.
_STRUCTS = ("tempos_event_header", "tempos_envelope")
_PREFIXES = (
    "DATA_PORT", "CONTROL_PORT", "API_PORT", "WIRE_", "EVENT_", "BATCH_", "FLAG_", "ENVELOPE_", "KIND_",
    "ERROR_", "TOPIC_", "NARROW", "WIDE",
)  # fmt: skip


def section() -> str:
    """Constants and layouts, as they stand in the header."""
    text = HEADER.read_text()
    constants = [
        line
        for line in text.splitlines()
        if line.startswith(tuple(f"#define TEMPOS_{each}" for each in _PREFIXES))
    ]
    structs = [re.search(rf"^struct {name} \{{.*?^\}};", text, re.M | re.S) for name in _STRUCTS]
    assert all(structs), "the header has other structs by now"
    layouts = [each[0] for each in structs if each]
    return "\n".join(
        [
            "\n## The header in C\n",
            "From `fastpath/bpf/abi.h`, which is the one source of these for C and Python alike.\n",
            block("\n".join(constants), "c"),
            *(block(each.expandtabs(4), "c") for each in layouts),
        ]
    )
