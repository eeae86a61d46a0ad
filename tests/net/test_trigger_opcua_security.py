"""Secure channels to an OPC UA server: who is known, who is not, and that nothing secret is told."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from support.ports import free_ports
from support.triggers import TOPIC, BrokerBeside, broker_beside, eventually, taking, trigger_here

from tempos import ConfigError, LocalError
from tempos_trigger import layout
from tempos_trigger.sources.opcua_security import Security
from tempos_trigger.trigger import Trigger

NAME, PASSWORD, GUESSED = "press-7", "only-the-press-knows", "somebody-guesses"
POLICIES = {
    "Basic256Sha256": ("Basic256Sha256_Sign", "Basic256Sha256_SignAndEncrypt"),
    "Aes256Sha256RsaPss": ("Aes256Sha256RsaPss_Sign", "Aes256Sha256RsaPss_SignAndEncrypt"),
}


def certified(folder: Path, name: str, *, form: str = "PEM", kind: str = "rsa:2048") -> tuple[Path, Path]:
    """Certificate and key of an application."""
    certificate, key = folder / f"{name}.{form.lower()}", folder / f"{name}-key.pem"
    names = f"subjectAltName=URI:urn:test:{name},DNS:localhost,IP:127.0.0.1"
    uses = "keyUsage=digitalSignature,nonRepudiation,keyEncipherment,dataEncipherment,keyCertSign"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", kind, "-nodes", "-days", "2", "-subj", f"/CN={name}",
            *(("-addext", names) if name != "nameless" else ()), "-addext", uses,
            "-addext", "extendedKeyUsage=serverAuth,clientAuth",
            "-keyout", str(key), "-outform", form, "-out", str(certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


class _Known:
    """Who may use the server: one user, by his password. Every application."""

    def get_user(
        self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None, **more: Any
    ) -> User | None:
        known = (username, password) == (NAME, PASSWORD)
        return User(role=UserRole.Admin) if known and certificate is not None else None


@asynccontextmanager
async def plant(port: int, certificate: Path, key: Path, policy: str) -> AsyncIterator[Any]:
    """A server with a variable, that speaks to nobody in clear."""
    server = Server(user_manager=_Known())  # type: ignore[arg-type]
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant")
    await server.set_application_uri("urn:test:server")
    await server.load_certificate(str(certificate))
    await server.load_private_key(str(key))
    server.set_security_policy([getattr(ua.SecurityPolicyType, each) for each in POLICIES[policy]])
    server.set_identity_tokens([ua.UserNameIdentityToken])
    index = await server.register_namespace("plant")
    variable = await server.nodes.objects.add_variable(ua.NodeId("temperature", index), "temperature", 0.0)
    async with server:
        yield variable


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerBeside]:
    with broker_beside(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("papers")
    return {
        "client": certified(folder, "client"),
        "server": certified(folder, "server", form="DER"),
        "other": certified(folder, "other"),
        "nameless": certified(folder, "nameless"),
        "curve": certified(folder, "curve", kind="ec:" + str(_curve(folder))),
    }


def _curve(folder: Path) -> Path:
    file = folder / "curve.params"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-out", str(file)], check=True)
    return file


def endpoint(port: int, papers: dict[str, tuple[Path, Path]], **other: Any) -> dict[str, Any]:
    (certificate, key), (server, _) = papers["client"], papers["server"]
    return {
        "name": "in", "topic": TOPIC, "kind": "opcua", "url": f"opc.tcp://127.0.0.1:{port}/plant",
        "nodes": ["ns=2;s=temperature"], "interval": 0.05, "sampling": 0.01,
        "security": "Basic256Sha256", "certificate": str(certificate), "key": str(key),
        "server_certificate": str(server), "username": NAME, "password": PASSWORD, **other,
    }  # fmt: skip


def told(trigger: Trigger) -> dict[str, Any]:
    status = trigger.endpoints["in"].status()
    assert status["balanced"], status
    return status


@pytest.mark.parametrize(
    ("policy", "mode"),
    [("Basic256Sha256", "Sign"), ("Aes256Sha256RsaPss", "SignAndEncrypt")],
)
async def test_values_come_by_a_secure_channel(
    broker: BrokerBeside,
    papers: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    policy: str,
    mode: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    (port,) = free_ports(1)
    right = endpoint(port, papers, security=policy, mode=mode)
    document = {"broker": broker.table, "endpoint": [right]}
    statuses = []
    async with taking(broker) as taken, trigger_here(tmp_path, document) as trigger:
        async with plant(port, *papers["server"], policy) as variable:
            await taken.count(1)
            await variable.write_value(7.5)
            await taken.until(lambda: any(json.loads(body)["value"] == 7.5 for body in taken.bodies))
            statuses.append(told(trigger))
            # Who guesses a password, and who has no channel, gets nothing.
            in_clear = dict.fromkeys(("certificate", "key", "server_certificate"), "")
            for wrong in ({"password": GUESSED}, {"security": "None", **in_clear}):
                changed = {"broker": broker.table, "endpoint": [{**right, **wrong}]}
                await trigger.apply(layout.parse(changed, "d"), "test")
                await eventually(lambda: told(trigger)["source"].get("why"))
                statuses.append(told(trigger))
                assert told(trigger)["source"]["state"] != "up"
            await trigger.apply(layout.parse(document, "d"), "test")
            await eventually(lambda: told(trigger)["source"]["state"] == "up")
        # Another one at its address, with papers of its own, is not spoken to.
        await eventually(lambda: told(trigger)["source"]["state"] == "waiting")
        sessions = told(trigger)["source"]["sessions"]
        async with plant(port, *papers["other"], policy):
            seen = told(trigger)["source"]["why"]
            await eventually(lambda: told(trigger)["source"].get("why", seen) != seen)
            assert told(trigger)["source"]["sessions"] == sessions
            statuses.append(told(trigger))
    key = papers["client"][1].read_text().splitlines()[5]
    said = caplog.text + repr(statuses)
    for secret in (PASSWORD, GUESSED, key):
        assert secret not in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"security": "None"}, "certificate is there without security"),
        ({"server_certificate": ""}, "server_certificate is missing"),
        ({"certificate": ""}, "certificate is missing"),
        ({"security": "Basic128Rsa15"}, '"Basic256Sha256"'),
        ({"mode": "None"}, '"SignAndEncrypt"'),
    ],
)
def test_what_does_not_go_together_is_refused(
    papers: dict[str, tuple[Path, Path]], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        layout.parse({"endpoint": [endpoint(4840, papers, **options)]}, "d")


@pytest.mark.parametrize(
    ("paper", "instead", "words"),
    [
        ("certificate", "nothing", "cannot be read"),
        ("certificate", "text", "holds no certificate"),
        ("certificate", "curve", "holds no certificate of an RSA key"),
        ("key", "other", "holds another key"),
        ("key", "text", "holds no RSA key without password"),
        ("server_certificate", "text", "holds no certificate"),
        ("certificate", "nameless", "names no application"),
    ],
)
async def test_files_that_are_no_good_are_told_before_anything_changes(
    papers: dict[str, tuple[Path, Path]], tmp_path: Path, paper: str, instead: str, words: str
) -> None:
    (tmp_path / "text").write_text(PASSWORD)
    file = papers[instead][paper == "key"] if instead in papers else tmp_path / instead
    more = {"key": str(papers[instead][1])} if instead == "nameless" else {}
    asked = layout.parse({"endpoint": [endpoint(4840, papers, **{paper: str(file), **more})]}, "d")
    with pytest.raises(LocalError, match=words) as refused:
        Security(asked.endpoints[0].options).load()
    assert PASSWORD not in str(refused.value)


def test_a_renewed_certificate_is_another_endpoint(
    papers: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    certificate, key = certified(tmp_path, "client")
    whole = tmp_path / "whole.pem"
    whole.write_bytes(key.read_bytes() + certificate.read_bytes())
    asked = endpoint(4840, papers, certificate=str(whole), key="")
    security = Security(layout.parse({"endpoint": [asked]}, "d").endpoints[0].options)
    security.load()
    assert (security.application, security.is_current()) == ("urn:test:client", True)
    certificate, key = certified(tmp_path, "client")
    whole.write_bytes(key.read_bytes() + certificate.read_bytes())
    assert not security.is_current()
    whole.unlink()
    assert not security.is_current()
