"""Makes the description of the control API, ``assets/openapi.json``, of its operations and models.

With ``--check`` it only says whether the file is what would be made now.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tempos import __version__
from tempos_broker.api import models
from tempos_broker.api.application import operations
from tempos_daemon.models import Health, Problem, Ready

FILE = Path(__file__).parent / "assets" / "openapi.json"


class _Nobody:
    """Stands where a broker would: to be described it need not be there."""

    def __getattr__(self, name: str) -> Any:
        return Counter() if name == "api_refused" else _Nobody()

    def __call__(self, *_: object, **__: object) -> Any:
        return _Nobody()


def document() -> dict[str, Any]:
    """The description."""
    anyone: Any = _Nobody()
    told: list[type[BaseModel]] = [
        each
        for _, each in inspect.getmembers(models, inspect.isclass)
        if issubclass(each, BaseModel) and each.__module__ == models.__name__
    ]
    told += [Health, Ready, Problem]
    _, schemas = models_json_schema(
        [(each, "serialization") for each in told],
        ref_template="#/components/schemas/{model}",
    )
    return operations(anyone, anyone).document("tempos control API", __version__, schemas["$defs"])


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tempos_broker.api.describe")
    parser.add_argument("--check", action="store_true", help="say whether the file is up to date")
    check = parser.parse_args().check
    made = json.dumps(document(), indent=1, ensure_ascii=False) + "\n"
    if not check:
        FILE.write_text(made)
        return 0
    if FILE.exists() and FILE.read_text() == made:
        return 0
    print(
        f"{FILE.name} is not what the operations say: python -m tempos_broker.api.describe", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
