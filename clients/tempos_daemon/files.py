"""Files that a configuration names, read with a limit: a device has no end.

Rule: a daemon reads what an operator has named by :func:`read_start`, so that a wrong name costs neither its
memory nor the machine's.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tempos import LocalError
from tempos_daemon.schema import Faults, Table

if TYPE_CHECKING:
    from tempos import TopicKeys

#: Bytes that are read at most: a configuration of 60,000 topics with a member each, which names every option,
#: is a quarter of it.
MOST = 64 * 1024 * 1024


def read_start(path: Path) -> bytes:
    """The bytes of a file; of a larger one the first :data:`MOST` and one more. Raises :class:`OSError`."""
    with path.open("rb") as file:
        return file.read(MOST + 1)


def topic_keys(table: Table, faults: Faults, key: str = "keys_file") -> TopicKeys | None:
    """The keys in the file that a table names, if it names any; what is wrong with it is a fault."""
    path = table.get(key)
    if not path:
        return None
    from tempos import TopicKeys

    try:
        return TopicKeys.read(path)
    except LocalError as error:
        faults.add(table.at(key), str(error))
        return None


def must_be_plain(path: Path) -> None:
    """Raise :class:`OSError` for what is no plain file: a folder, a device, a pipe without a writer."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "it is no plain file")
