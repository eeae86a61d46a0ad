"""An etcd with TLS and users: who brokers are there, and what they say where they are nobody."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import Authority
from support.etcd import Cluster
from support.fleets import Fleet, ended
from support.waiting import LIMIT

from tempos_broker.fleet.etcd import Etcd, context
from tempos_broker.fleet.registry import Away, Write

USER, PASSWORD = "brokers", "not told to anybody"


class Guarded:
    """One node with TLS, where only ``brokers`` may read and write below /tempos/."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.cluster = Cluster(folder, certified=self.authority.certify("etcd"))
        self.cluster.start()
        self._ctl("user", "add", "root:root")
        self._ctl("user", "grant-role", "root", "root")
        self._ctl("role", "add", USER)
        self._ctl("role", "grant-permission", USER, "readwrite", "--prefix", "/tempos/")
        self._ctl("user", "add", f"{USER}:{PASSWORD}")
        self._ctl("user", "grant-role", USER, USER)
        self._ctl("user", "add", "stranger:stranger")
        self._ctl("auth", "enable")

    def _ctl(self, *words: str) -> None:
        trusted = "--cacert", str(self.authority.certificate)
        subprocess.run(
            ["etcdctl", "--endpoints", self.cluster.endpoints[0], *trusted, *words],
            check=True, capture_output=True, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}, timeout=LIMIT,
        )  # fmt: skip

    def registry(self, user: str = USER, password: str = PASSWORD) -> Etcd:
        verify = context(str(self.authority.certificate), "", "")
        return Etcd(self.cluster.endpoints, "/tempos/guarded/", user=user, password=password, verify=verify)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if shutil.which("etcdctl") is None:
        pytest.skip("etcdctl is not installed (package etcd-client)")
    made = Guarded(tmp_path_factory.mktemp("etcd"))
    yield made
    made.cluster.end()


async def test_who_has_the_right_reads_writes_and_watches_also_after_a_restart(guarded: Guarded) -> None:
    registry = guarded.registry()
    try:
        lease = await registry.grant(30)
        written = await registry.write([Write("a", b"1")], lease)
        async for changes in registry.watch(written.revision - 1):
            if changes:
                assert [each.key for each in changes] == ["a"]
                break
        # Tokens are forgotten by it, and had anew.
        guarded.cluster.end()
        guarded.cluster.start()
        assert set((await registry.list()).entries) == {"a"}
        async for changes in registry.watch(written.revision - 1):
            if changes:
                break
        await registry.revoke(lease)
    finally:
        await registry.close()


@pytest.mark.parametrize(
    ("user", "password", "words"),
    [
        (USER, "wrong", "authentication failed"),
        ("stranger", "stranger", "permission denied"),
        ("", "", "user name is empty"),
    ],
)
async def test_who_has_not_is_told_why(user: str, password: str, words: str, guarded: Guarded) -> None:
    registry = guarded.registry(user, password)
    try:
        with pytest.raises(Away, match=words):
            await registry.list()
        with pytest.raises(Away, match=words):
            await _watched(registry)
    finally:
        await registry.close()


async def _watched(registry: Etcd) -> None:
    async for changes in registry.watch(0):
        assert not changes


async def test_an_etcd_that_nobody_vouches_for_is_not_asked(guarded: Guarded) -> None:
    registry = Etcd(guarded.cluster.endpoints, "/tempos/guarded/", verify=ssl.create_default_context())
    try:
        with pytest.raises(Away, match="certificate verify failed"):
            await registry.list()
    finally:
        await registry.close()


async def test_brokers_share_their_members_over_it(guarded: Guarded, tmp_path: Path) -> None:
    store = f"""\
user = "{USER}"
password = "{PASSWORD}"
ca = {json.dumps(str(guarded.authority.certificate))}
"""
    with ended(Fleet(tmp_path, guarded.cluster.endpoints, "one", "two", store=store)) as fleet:
        fleet.start()
        async with fleet.subscriber("one", "a") as subscriber, fleet.publisher("two") as publisher:
            assert subscriber.fleet == (2, 2)
            await publisher.publish("a", 1)
            assert (await subscriber.next(LIMIT)).unpack() == 1
        assert PASSWORD not in fleet.log("one")
        assert PASSWORD not in json.dumps(fleet.status("one"))
