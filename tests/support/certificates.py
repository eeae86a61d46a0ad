"""An authority and certificates of it, as PEM files, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def _openssl(*arguments: str) -> None:
    subprocess.run(("openssl", *arguments), check=True, capture_output=True)


class Authority:
    """An authority of its own in ``folder``; ``name`` tells it from others."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self.certificate, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", str(self._key), "-out", str(self.certificate),
        )  # fmt: skip

    def certify(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of somebody at 127.0.0.1 of this name; made anew each time."""
        certificate, key, request = (self._folder / f"{name}.{each}" for each in ("pem", "key", "csr"))
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key),
            "-days", "2", "-copy_extensions", "copy", "-out", str(certificate),
        )  # fmt: skip
        return certificate, key
