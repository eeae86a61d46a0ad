"""What a file asks the Controller to change: its tables as documents, and the code that they name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempos import ConfigError
from tempos.cli.api import Api
from tempos_controller.config.load import KINDS, read_code
from tempos_daemon import toml
from tempos_daemon.schema import Faults


def change_of(documents: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a file that are workflows, functions, triggers and nodes."""
    return {kind: documents[kind] for kind in KINDS if documents.get(kind)}


def read_change(file: str) -> tuple[dict[str, Any], dict[str, bytes], list[str]]:
    """The change that a file asks for, the code by its hash, and the tables that are no part of it.

    The file may be a platform's, or hold some tables only. Raises :class:`ConfigError`.
    """
    document = toml.document(toml.read_text(file), file)
    faults = Faults(file)
    code = read_code(document, Path(file).parent, faults)
    wrong = [kind for kind in KINDS if kind in document and not isinstance(document[kind], list)]
    for kind in wrong:
        faults.refuse(kind, document[kind], f"a list of tables, written [[{kind}]]")
    if faults.problems:
        raise ConfigError(faults.problems)
    return change_of(document), code, sorted(document.keys() - set(KINDS))


def upload(api: Api, code: Mapping[str, bytes]) -> None:
    """Give the Controller the code; raises as :class:`Api` does."""
    for digest, content in code.items():
        api.put(f"/v1/code/{digest}", content)
