# The compiled traffic helper (bench/native); only tempos_bench.traffic talks to it.
from typing import Any

ffi: Any
lib: Any
