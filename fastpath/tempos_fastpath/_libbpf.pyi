# The cffi module compiled from fastpath/native/libbpf.c; only native.py imports it.

from typing import Any

ffi: Any
lib: Any
