"""Keys in a fleet: clients name the broker that they ask, and what one has taken no other takes."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.asking import answer_to, signed
from support.brokers import TOKEN, get
from support.etcd import Cluster
from support.fleets import TOPICS, Fleet, ended
from support.waiting import LIMIT, until

from tempos import ControlRefused, Key, Publisher, auth
from tempos.control import Code

KEY = Key("sensor-1", bytes(range(32)))
CLIENTS = f"""{TOPICS}
[[client]]
id = "{KEY.id}"
key = "{KEY.secret.hex()}"
publish = ["*"]
subscribe = ["*"]
"""


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("etcd"))
    made.start()
    yield made
    made.end()


async def test_signed_clients_are_members_everywhere_and_move(etcd: Cluster, tmp_path: Path) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", more=CLIENTS)) as fleet:
        fleet.start()
        brokers = [fleet.addresses["one"], fleet.addresses["two"]]
        async with (
            fleet.subscriber("two", "a", auth=KEY) as subscriber,
            Publisher(brokers, data_port=fleet.data, control_port=fleet.control, auth=KEY) as publisher,
        ):
            assert subscriber.fleet == (2, 2)
            await publisher.publish("a", 1)
            assert (await subscriber.next(LIMIT)).unpack() == 1
            first = publisher.id
            fleet.signal("one", signal.SIGSTOP)
            while publisher.id == first:
                await publisher.publish("a", 2)
            await publisher.publish("a", 3)
            while (await subscriber.next(LIMIT)).unpack() != 3:
                pass
            fleet.signal("one", signal.SIGCONT)


def test_a_request_that_was_recorded_at_one_broker_is_refused_at_another(
    etcd: Cluster, tmp_path: Path
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", more=CLIENTS)) as fleet:
        fleet.start()
        recorded = signed(KEY, auth.addressee_of(f"test-{fleet.data}", f"one-{fleet.data}"))

        def ask(name: str) -> str:
            return answer_to(KEY, recorded, (fleet.addresses[name], fleet.control))

        assert ask("one") == "taken"
        assert ask("two") == Code.ADDRESSEE
        assert get(fleet.apis["two"], "/v1/status")["control"]["refused"]["wrong addressee"] == 1


def order(fleet: Fleet, name: str, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """What the control API of a broker says to an order."""
    connection = http.client.HTTPConnection("127.0.0.1", fleet.apis[name], timeout=LIMIT)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


async def test_a_client_made_at_one_broker_signs_at_the_other_over_kills(
    etcd: Cluster, tmp_path: Path
) -> None:
    with ended(
        Fleet(tmp_path, etcd.endpoints, "one", "two", state=True, store='share = ["topics", "keys"]')
    ) as fleet:
        for name in fleet.names:
            file = tmp_path / f"{name}.toml"
            file.write_text(file.read_text().replace("[broker]\n", f'[broker]\napi_token = "{TOKEN}"\n'))
        fleet.start()

        def knows(name: str, key: Key) -> bool:
            to = auth.addressee_of(f"test-{fleet.data}", f"{name}-{fleet.data}")
            came = answer_to(key, signed(key, to), (fleet.addresses[name], fleet.control))
            assert came in ("taken", Code.NOT_ALLOWED)
            return came == "taken"

        # Nobody has a key yet, and nobody is let in for that.
        with pytest.raises(ControlRefused, match="must be signed"):
            async with fleet.publisher("two") as unsigned:
                await unsigned.publish("a", 0)
        made = {"id": KEY.id, "key": KEY.secret.hex(), "publish": ["*"], "subscribe": ["*"]}
        assert order(fleet, "one", "POST", "/v1/clients", made)[0] == 201
        async with fleet.subscriber("one", "a", auth=KEY) as subscriber:
            assert subscriber.fleet == (2, 2)
            async with fleet.publisher("two", auth=KEY) as publisher:
                for number in range(100):
                    await publisher.publish("a", number)
                got = [(await subscriber.next(LIMIT)).unpack() for _ in range(100)]
                assert got == list(range(100))
        ledgers = [get(fleet.apis[name], "/v1/ledger") for name in fleet.names]
        assert all(each["balanced"] for each in ledgers)
        came, went = (
            sum(count for each in ledgers for topic in each["topics"] if (count := topic[what]))
            for what in ("received", "slow")
        )
        assert came == went == 100
        # Another key, while one broker is dead: it goes by that when it is back, and brings nothing back.
        fleet.end("two", how=signal.SIGKILL)
        second = Key(KEY.id, bytes(32))
        gone, third = Key("gone", b"g" * 32), Key("third", b"t" * 32)
        for key in (gone, third):
            assert (
                order(fleet, "one", "POST", "/v1/clients", {"id": key.id, "key": key.secret.hex()})[0] == 201
            )
        fleet.start("two")
        until(lambda: knows("two", gone) and knows("two", third))
        fleet.end("two", how=signal.SIGKILL)
        answer = order(fleet, "one", "PATCH", f"/v1/clients/{KEY.id}", {"key": second.secret.hex()})
        assert answer[0] == 200
        assert order(fleet, "one", "DELETE", f"/v1/clients/{gone.id}")[0] == 200
        fleet.start("two")
        until(lambda: knows("two", second) and not knows("two", gone))
        assert [knows(name, key) for name in fleet.names for key in (KEY, second, gone, third)] == [
            False, True, False, True,
        ] * 2  # fmt: skip
        answer = order(fleet, "two", "GET", "/v1/clients")
        assert {each["id"]: each["origin"] for each in answer[1]["clients"]} == {
            KEY.id: "run-time", "third": "run-time",
        }  # fmt: skip
        told = json.dumps([answer, fleet.status("two"), fleet.status("one")])
        told += "".join(fleet.log(name) for name in fleet.names)
        assert not [key for key in (KEY, second, gone, third) if key.secret.hex() in told]
