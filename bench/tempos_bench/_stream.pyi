# The compiled stream helper (bench/native); only tempos_bench.peers.stream talks to it.
from typing import Any

ffi: Any
lib: Any
