# The compiled latency helper (bench/native); only tempos_bench.latency talks to it.
from typing import Any

ffi: Any
lib: Any
