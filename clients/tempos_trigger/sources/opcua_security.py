"""Security of endpoints of kind ``opcua``: secure channels (OPC UA part 4, 5.5; policies of part 7).

Who connects shows the certificate of an application, which names it by a URI, and has to have its key. The
server is known by its own certificate, which stands in a file here: no other server is spoken to. Files are
read when an endpoint is opened, so what is wrong with them is told while nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asyncua import ua
from asyncua.client.client import Client
from asyncua.crypto import security_policies, uacrypto
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tempos import LocalError
from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Table

NONE = "None"
POLICIES = ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
_FILES = ("certificate", "key", "server_certificate")

#: PEM or DER; ``key`` without a password; it may stand in the certificate's file.
KEYS: Keys = {
    "security": Key(kinds.choice(NONE, *POLICIES), NONE),
    "mode": Key(kinds.choice("Sign", "SignAndEncrypt"), "SignAndEncrypt"),
    "certificate": Key(kinds.FILE, ""),
    "key": Key(kinds.FILE, ""),
    "server_certificate": Key(kinds.FILE, ""),
}


def check(table: Table, faults: Faults) -> None:
    """Add the faults that span several keys."""
    if table.get("security") == NONE:
        for name in _FILES:
            if table.get(name):
                faults.add(table.at(name), "is there without security; allowed: both of them, or neither")
        return
    for name in ("certificate", "server_certificate"):
        if not table.get(name):
            faults.add(
                table.at(name), f"is missing, and security is {table.get('security')}; allowed: a file"
            )


class Security:
    """A secure channel by such options. Off until :meth:`load`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.wanted = options["security"] != NONE
        self._read: dict[str, bytes] = {}
        self._certificate = self._server = self._key = b""
        #: What the certificate calls the application.
        self.application = ""

    def load(self) -> None:
        """Read the files; raises :class:`LocalError`, which names the one that is no good."""
        if not self.wanted:
            return
        read = {file: _content(file) for file in self._files.values()}
        names = self._files
        own = _certificate(names["certificate"], read)
        self._server = _der(_certificate(names["server_certificate"], read))
        key = _key(names["key"], read)
        if key.public_key() != own.public_key():
            raise LocalError(f"{names['key']} holds another key than that of {names['certificate']}")
        self._certificate, self.application = _der(own), _application(names["certificate"], own)
        self._key = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._read = read

    def is_current(self) -> bool:
        """Whether the files are as they were read."""
        try:
            return all(_content(file) == content for file, content in self._read.items())
        except LocalError:
            return False

    async def secure(self, client: Client) -> None:
        """Have a client, which has not connected yet, use it."""
        if not self.wanted:
            return
        client.application_uri = self.application
        await client.set_security(
            getattr(security_policies, f"SecurityPolicy{self._options['security']}"),
            uacrypto.CertProperties(self._certificate, "der"),
            uacrypto.CertProperties(self._key, "der"),
            server_certificate=uacrypto.CertProperties(self._server, "der"),
            mode=ua.MessageSecurityMode[self._options["mode"]],
        )

    @property
    def _files(self) -> dict[str, str]:
        named = {name: self._options[name] for name in _FILES}
        return {**named, "key": named["key"] or named["certificate"]}


def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise LocalError(f"{file} cannot be read: {error.strerror}") from error


def _tried(content: bytes, pem: Callable[[bytes], Any], der: Callable[[bytes], Any]) -> Any:
    """What it holds, None if that is neither; never what it held, which may be a key."""
    for read in (pem, der):
        try:
            return read(content)
        except (ValueError, TypeError):
            continue
    return None


def _certificate(file: str, read: Mapping[str, bytes]) -> x509.Certificate:
    found = _tried(read[file], x509.load_pem_x509_certificate, x509.load_der_x509_certificate)
    if found is None or not isinstance(found.public_key(), rsa.RSAPublicKey):
        raise LocalError(f"{file} holds no certificate of an RSA key, PEM or DER")
    return found  # type: ignore[no-any-return]


def _key(file: str, read: Mapping[str, bytes]) -> rsa.RSAPrivateKey:
    found = _tried(
        read[file],
        lambda content: serialization.load_pem_private_key(content, None),
        lambda content: serialization.load_der_private_key(content, None),
    )
    if not isinstance(found, rsa.RSAPrivateKey):
        raise LocalError(f"{file} holds no RSA key without password, PEM or DER")
    return found


def _application(file: str, certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    if not uris:
        raise LocalError(f"{file} names no application: it has no URI in its subjectAltName")
    return uris[0]


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
