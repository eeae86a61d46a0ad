"""TLS of endpoints: who may connect, what is told of files that are no good, and files that change."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.certificates import Authority
from support.counterparts import Mosquitto
from support.ports import free_ports
from support.triggers import LIMIT, TOPIC, BrokerBeside, broker_beside, eventually, taking, trigger_here

from tempos import ConfigError
from tempos_trigger import layout
from tempos_trigger.trigger import Trigger

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerBeside]:
    with broker_beside(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def document(broker: BrokerBeside, *endpoints: dict[str, Any]) -> dict[str, Any]:
    return {"broker": broker.table, "endpoint": list(endpoints)}


def endpoint(kind: str, port: int, tls: dict[str, str], **more: Any) -> dict[str, Any]:
    named = {"name": kind, "kind": kind, "topic": TOPIC, "listen": f"127.0.0.1:{port}", "tls": tls}
    return {**named, **({"path": "/in"} if kind == "http" else {}), **more}


def trusting(authority: Authority, shows: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if shows is not None:
        context.load_cert_chain(*map(str, shows))
    return context


async def post(port: int, context: ssl.SSLContext, body: bytes) -> int:
    async with httpx.AsyncClient(verify=context, timeout=LIMIT) as client:
        return (await client.post(f"https://127.0.0.1:{port}/in", content=body)).status_code


async def test_who_has_a_certificate_is_heard_and_files_that_changed_are_read_again(
    broker: BrokerBeside, authority: Authority, tmp_path: Path
) -> None:
    http, tcp = free_ports(2)
    certificate, key = authority.certify("server")
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(authority.certificate)}
    shows = authority.certify("client")
    stranger = Authority(tmp_path, "stranger").certify("other")
    wanted = document(broker, endpoint("http", http, tls), endpoint("tcp", tcp, tls))

    async def serial() -> int:
        _, writer = await asyncio.open_connection("127.0.0.1", tcp, ssl=trusting(authority, shows))
        try:
            shown = writer.get_extra_info("ssl_object").getpeercert()
            return int(shown["serialNumber"], 16)
        finally:
            writer.close()

    async with trigger_here(tmp_path, wanted) as trigger, taking(broker) as taken:
        assert trigger.endpoints["http"].status()["source"]["url"] == f"https://127.0.0.1:{http}/in"
        assert await post(http, trusting(authority, shows), b"heard") == 202
        for context in (trusting(authority), trusting(authority, stranger)):
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                await post(http, context, b"not heard")
        async with httpx.AsyncClient(timeout=LIMIT) as client:
            with pytest.raises(httpx.TransportError):
                await client.post(f"http://127.0.0.1:{http}/in", content=b"not heard")
        refused = trigger.endpoints["http"]
        await eventually(lambda: refused.status()["source"]["turned_away"].get("no TLS", 0) >= 2)
        _, writer = await asyncio.open_connection("127.0.0.1", tcp, ssl=trusting(authority, shows))
        writer.write(b"line\n")
        await writer.drain()
        await taken.until(lambda: set(taken.bodies) == {b"heard", b"line"})
        before = await serial()

        # The same deployment, but with other files: those who are connected stay so.
        authority.certify("server")
        assert await trigger.apply(layout.parse(wanted, "again"), "put") == []
        assert await serial() != before
        assert await post(http, trusting(authority, shows), b"renewed") == 202
        # What is no good is refused, and what was read before goes on.
        key.write_text("no key")
        with pytest.raises(ConfigError, match="no certificate and its key without password") as error:
            await trigger.apply(layout.parse(wanted, "again"), "put")
        assert len(error.value.problems) == 2
        assert await post(http, trusting(authority, shows), b"still") == 202
        writer.close()
        await eventually(lambda: trigger.endpoints["tcp"].status()["source"]["connections"] == 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda tls: {**tls, "certificate": "/nowhere/at.pem"},
            "/nowhere/at.pem cannot be read: No such file",
        ),
        (lambda tls: {**tls, "client_ca": tls["key"]}, "holds no certificates, PEM"),
        (lambda tls: {**tls, "key": tls["client_ca"]}, "no certificate and its key"),
        (lambda tls: {"key": tls["key"]}, "tls.key is there without certificate"),
        (lambda tls: {"client_ca": tls["key"]}, "tls.client_ca is there without certificate"),
    ],
)
async def test_what_is_no_good_is_told_while_nothing_has_changed(
    broker: BrokerBeside,
    authority: Authority,
    tmp_path: Path,
    change: Callable[[dict[str, str]], dict[str, str]],
    words: str,
) -> None:
    (port,) = free_ports(1)
    certificate, key = authority.certify("server")
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(authority.certificate)}
    async with trigger_here(tmp_path, document(broker, endpoint("http", port, tls))) as trigger:
        assert isinstance(trigger, Trigger)
        with pytest.raises(ConfigError, match=words):
            await trigger.apply(
                layout.parse(document(broker, endpoint("http", port, change(tls))), "new"), "put"
            )
        assert await post(port, trusting(authority, authority.certify("client")), b"as before") == 202


def test_endpoints_of_one_port_have_one_tls(broker: BrokerBeside) -> None:
    one = endpoint("http", 8443, {"certificate": "/a.pem"})
    other = endpoint("http", 8443, {}, name="other", path="/other")
    with pytest.raises(
        ConfigError, match=r"endpoint\[1\] wants another tls at 127.0.0.1:8443 than endpoint\[0\]"
    ):
        layout.parse(document(broker, one, other), "both")


@pytest.fixture
def demanding(authority: Authority, tmp_path: Path) -> Iterator[int]:
    """The port of an MQTT server that wants a certificate of the authority."""
    certificate, key = authority.certify("server")
    server = Mosquitto(
        tmp_path,
        f"require_certificate true\ncafile {authority.certificate}\ncertfile {certificate}\nkeyfile {key}\n",
    )
    server.start()
    yield server.port
    server.end()


async def test_a_server_that_wants_a_certificate(
    broker: BrokerBeside, authority: Authority, demanding: int, tmp_path: Path
) -> None:
    certificate, key = authority.certify("client")
    reach = {"name": "mqtt", "kind": "mqtt", "topic": TOPIC, "server": "127.0.0.1", "port": demanding,
             "filter": "a", "tls": True, "ca": str(authority.certificate)}  # fmt: skip
    shown = {**reach, "certificate": str(certificate), "key": str(key)}
    async with trigger_here(tmp_path, document(broker, reach)) as trigger:

        def source() -> dict[str, Any]:
            return trigger.endpoints["mqtt"].status()["source"]  # type: ignore[no-any-return]

        await eventually(lambda: bool(source().get("why")))
        assert source()["state"] != "up"
        await trigger.apply(layout.parse(document(broker, shown), "new"), "put")
        await eventually(lambda: source()["state"] == "up")
