"""TLS of endpoints: that of a port which others connect to, and of a connection to a server elsewhere.

Files are read when an endpoint is opened, so what is wrong with them is told while nothing has changed. A
deployment that comes again, such as by SIGHUP, has files read anew that are others by then.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempos import LocalError
from tempos.errors import one_line
from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Table

#: The table ``tls`` of an endpoint that listens: PEM files. With ``client_ca`` whoever connects has to have a
#: certificate of that authority. The key may stand in the certificate's file.
SERVER: Keys = {
    "certificate": Key(kinds.FILE, ""),
    "key": Key(kinds.FILE, ""),
    "client_ca": Key(kinds.FILE, ""),
}
#: Of an endpoint that connects: what it shows for itself, if the server wants that.
CLIENT: Keys = {
    "tls": Key(kinds.FLAG, False),
    "ca": Key(kinds.FILE, ""),
    "certificate": Key(kinds.FILE, ""),
    "key": Key(kinds.FILE, ""),
}
#: Seconds that a handshake may take.
HANDSHAKE = 10.0

_Stamp = tuple[tuple[str, int, int, int], ...]


def check(table: Table, faults: Faults) -> None:
    """Add the faults of an endpoint that listens."""
    tls: Table = table.get("tls")
    _check(tls, ("key", "client_ca"), faults)


def check_client(table: Table, faults: Faults) -> None:
    """Add the faults of an endpoint that connects."""
    _check(table, ("key",), faults)
    if not table.get("tls"):
        for name in ("ca", "certificate"):
            if table.get(name):
                faults.add(table.at(name), "is there without tls = true; allowed: both of them, or neither")


def _check(table: Table, others: tuple[str, ...], faults: Faults) -> None:
    for name in others:
        if table.get(name) and not table.get("certificate"):
            faults.add(table.at(name), "is there without certificate; allowed: both of them, or neither")


class Tls:
    """TLS by such options; ``listens``: for those who connect here. Off until :meth:`load`."""

    def __init__(self, options: Mapping[str, Any], *, listens: bool) -> None:
        self._listens = listens
        self._options = options["tls"] if listens else options
        self.wanted = bool(self._options["certificate"] if listens else self._options["tls"])
        self.context: ssl.SSLContext | None = None
        self._stamp: _Stamp = ()

    @property
    def _files(self) -> list[str]:
        return [self._options[name] for name in ("certificate", "key", "client_ca", "ca")
                if self._options.get(name)]  # fmt: skip

    def load(self) -> None:
        """Read the files; raises :class:`LocalError`, which names the one that is no good."""
        if not self.wanted:
            return
        stamp = self._stamped()
        for file in self._files:
            try:
                Path(file).read_bytes()
            except OSError as error:
                raise LocalError(f"{file} cannot be read: {error.strerror}") from error
        options = self._options
        if self._listens:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority = options["client_ca"]
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            authority = options["ca"]
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if authority:
                context.load_verify_locations(authority)
                context.verify_mode = ssl.CERT_REQUIRED
            elif not self._listens:
                context.load_default_certs()
        except (OSError, ValueError) as error:
            raise LocalError(f"{authority} holds no certificates, PEM: {one_line(error)}") from error
        if certificate := options["certificate"]:
            key = options["key"] or certificate
            try:
                # Nobody is there to be asked for a password.
                context.load_cert_chain(certificate, key, password=lambda: b"")
            except (OSError, ValueError) as error:
                told = (
                    f"{certificate} with the key of {key}: no certificate and its key without password, PEM"
                )
                raise LocalError(f"{told}: {one_line(error)}") from error
        self.context, self._stamp = context, stamp

    def is_current(self, options: Mapping[str, Any]) -> bool:
        """Whether what was loaded is what these options want, by the files as they are now."""
        other = Tls(options, listens=self._listens)
        return (other.wanted, other._files) == (self.wanted, self._files) and (
            not self.wanted or self._stamp == self._stamped()
        )

    def _stamped(self) -> _Stamp:
        stamps = []
        for file in self._files:
            try:
                known = Path(file).stat()
            except OSError:
                stamps.append((file, 0, 0, 0))
            else:
                stamps.append((file, known.st_ino, known.st_mtime_ns, known.st_size))
        return tuple(stamps)
