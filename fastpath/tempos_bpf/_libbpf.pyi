# The cffi module compiled from fastpath/native/libbpf.c; only library.py imports it.

from typing import Any

ffi: Any
lib: Any
