# The cffi module compiled from fastpath/native/libbpf.c; only bpf.py looks inside.

from typing import Any

ffi: Any
lib: Any
