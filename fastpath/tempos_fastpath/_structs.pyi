# The cffi module compiled from fastpath/native/structs.c; only structs.py and topics.py call it.

from typing import Any

ffi: Any
lib: Any
