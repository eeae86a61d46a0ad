"""The ways to run a function, by name; what each is, its module in `tempos_invoker/worker/` says."""

from __future__ import annotations

MODES = ("python", "dlf", "wasm", "spawn")
#: Those in which it runs in the worker's own process, whose user, folder, memory and environment are its own.
INSIDE = frozenset({"python", "dlf"})
