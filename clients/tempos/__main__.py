"""``python -m tempos`` is the command ``tempos``."""

from __future__ import annotations

import sys

from tempos.cli import main

if __name__ == "__main__":
    sys.exit(main())
