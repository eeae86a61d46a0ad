"""Nobody is sent events who has not shown that it receives them; nobody takes more than a share."""

from __future__ import annotations

import pytest

from tempos import Topic
from tempos.control import (
    PROOF_BYTES,
    RETRY_AFTER,
    Code,
    Reply,
    decode_reply,
    decode_request,
    encode_request,
)
from tempos.session.core import ControlSession
from tempos.session.outstanding import GOES_BACK
from tempos.session.proof import decode
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig, ClientConfig, ControlConfig, Limits, TopicConfig
from tempos_broker.control.decisions import Decision, Proving
from tempos_broker.control.proofs import LIFETIME, SAME, Proofs
from tempos_broker.control.server import ControlServer
from tempos_broker.membership import Refused, Registry

IP, PORT, CLIENT, ASKED = "10.1.1.1", 5000, 77, "10.0.0.1"
ALPHA, BETA = Topic(7, "alpha"), Topic(8, "beta")
OVERHEAD = 28


class Broker:
    def __init__(self) -> None:
        config = BrokerConfig((TopicConfig(ALPHA), TopicConfig(BETA)))
        self.registry = Registry(config, lambda ip: False)
        self.server = ControlServer(
            self.registry, Ledger(), config.control, name="test", instance=42, epoch=lambda topic: 1,
            proofs=Proofs(b"k" * 32),
        )  # fmt: skip
        self.now = 100.0

    def ask(
        self, *, ip: str = IP, port: int = PORT, client: int = CLIENT, asked: str = ASKED, **fields: object
    ) -> tuple[Reply, Decision]:
        fields.setdefault("topic", "alpha")
        request = encode_request("subscribe", 1, client, port=port, **fields)
        decision = self.server.receive_datagram(request, ip, self.now, asked)
        assert decision is not None
        answer = self.server.render(decision)
        assert answer is not None
        said = len(answer) + (decision.proving is not None and len(decision.proving.datagram) + OVERHEAD)
        assert said <= len(request), "nobody unverified is answered with more than it asked with"
        return decode_reply(answer), decision

    def is_asked_to_prove(self, **fields: object) -> tuple[bytes, Proving | None]:
        """What the answer gives to repeat, and what is sent to the endpoint; nobody has become a member."""
        before = self.registry.version(7), self.registry.version(8)
        reply, decision = self.ask(**fields)  # type: ignore[arg-type]
        assert reply.error is not None
        assert reply.error.code == Code.PROVE
        assert not decision.changed
        assert before == (self.registry.version(7), self.registry.version(8))
        return reply.proof, decision.proving

    def proof(self, **fields: object) -> bytes:
        """All the way to the proof of an endpoint."""
        _, proving = self.is_asked_to_prove(**fields, proof=self.is_asked_to_prove(**fields)[0])
        assert proving is not None
        told = decode(proving.datagram)
        assert told is not None
        assert told[0] == fields.get("client", CLIENT)
        return told[1]

    def join(self, **fields: object) -> Decision:
        reply, decision = self.ask(**fields, proof=self.proof(**fields))  # type: ignore[arg-type]
        assert reply.ok is not None, reply.error
        return decision

    def members(self, topic: int) -> dict[str, list[tuple[str, int]]]:
        return {each.name: [(m.ip, m.port) for m in each.members] for each in self.registry.groups(topic)}


@pytest.fixture
def broker() -> Broker:
    return Broker()


def test_first_the_address_is_proved_and_then_the_endpoint(broker: Broker) -> None:
    given, proving = broker.is_asked_to_prove()
    assert proving is None, "nothing goes to an endpoint at an address that is nobody's yet"
    nothing, proving = broker.is_asked_to_prove(proof=given)
    assert not nothing
    assert proving is not None
    assert (proving.endpoint, proving.via) == ((IP, PORT), ASKED)
    told = decode(proving.datagram)
    assert told is not None
    # What proves the one does not prove the other.
    assert told[1] != given
    reply, decision = broker.ask(proof=told[1])
    assert reply.ok is not None, reply.error
    assert decision.changed == {7}
    assert broker.server.served == {"prove": 2, "subscribe": 1}


def test_who_asks_again_soon_is_given_the_same(broker: Broker) -> None:
    address, endpoint = broker.is_asked_to_prove()[0], broker.proof()
    broker.now += SAME - 1
    assert (address, endpoint) == (broker.is_asked_to_prove()[0], broker.proof())
    # As good as if they had just been made.
    broker.now += LIFETIME
    assert broker.ask(proof=endpoint)[0].ok is not None


def test_a_late_answer_takes_no_client_back_unless_what_it_has_is_not_good(broker: Broker) -> None:
    session = ControlSession(client=CLIENT, broker=ASKED, port=PORT)
    session.subscribe("alpha", None, now := 0.0)

    def proofs() -> list[bytes]:
        return [decode_request(each).fields["proof"] for each in session.datagrams_to_send(now)]

    (asked,) = session.datagrams_to_send(now)
    decision = broker.server.receive_datagram(asked, IP, broker.now, ASKED)
    assert decision is not None
    late = broker.server.render(decision)
    assert late is not None
    now = RETRY_AFTER[0] - 0.01
    session.receive_datagram(late, now)
    (address,) = proofs()
    session.prove(CLIENT, b"e" * PROOF_BYTES, now)
    assert proofs() == [b"e" * PROOF_BYTES]
    # Nor is it repeated before there was time for an answer.
    assert session.get_timer() == now + RETRY_AFTER[0]
    session.receive_datagram(late, now)
    assert proofs() == []
    for wait in RETRY_AFTER[:GOES_BACK]:
        now += wait
        assert proofs() == [b"e" * PROOF_BYTES]
    session.receive_datagram(late, now)
    assert proofs() == [address]


@pytest.mark.parametrize("topics", [["alpha", "beta"], ["#"]])
def test_many_topics_and_filters_are_proved_for_alike(broker: Broker, topics: list[str]) -> None:
    many = {"topic": None, "topics": topics, "since": ()}
    decision = broker.join(**many, roomy=True)
    assert decision.changed or decision.joining


@pytest.mark.parametrize(
    "other", [{"ip": "10.1.1.2"}, {"port": 5001}, {"client": 78}, {"asked": "10.0.0.2"}], ids=str
)
def test_a_proof_is_good_for_nobody_else(broker: Broker, other: dict[str, object]) -> None:
    address, _ = broker.is_asked_to_prove()
    proof = broker.proof()
    for each in (address, proof):
        assert broker.is_asked_to_prove(**other, proof=each)[1] is None
    broker.now += LIFETIME + SAME
    for each in (address, proof):
        assert broker.is_asked_to_prove(proof=each)[1] is None


def test_who_is_a_member_proves_nothing_again_unless_it_moves_or_wants_to(broker: Broker) -> None:
    broker.join()
    assert broker.ask(topic="beta")[0].ok is not None
    assert broker.is_asked_to_prove(asked="10.0.0.2")[1] is None
    # A socket that was made anew does not know yet where its events come from.
    address, proving = broker.is_asked_to_prove(proof=b"")
    assert proving is None
    assert broker.is_asked_to_prove(proof=address)[1] is not None


def test_who_asks_from_this_very_machine_may_leave_it_out(broker: Broker) -> None:
    assert broker.ask(ip="127.0.0.9", asked="127.0.0.1")[0].error is None
    # Who begins with an empty proof wants to know where its events will come from.
    assert broker.is_asked_to_prove(ip="127.0.0.9", port=PORT + 1, asked="127.0.0.1", proof=b"")[0]


def test_who_proves_an_endpoint_takes_the_place_of_whoever_was_there(broker: Broker) -> None:
    broker.join(group="old")
    assert broker.ask(topic="beta", group="old")[0].ok is not None
    # The same port after a crash: another client number, another group.
    decision = broker.join(client=CLIENT + 1, group="new")
    assert decision.changed == {7, 8}
    assert broker.members(7) == {"new": [(IP, PORT)]}
    assert broker.members(8) == {}


def registry(**limits: int) -> Registry:
    clients = tuple(ClientConfig(name, b"k" * 16, subscribe=("*",)) for name in ("one", "two"))
    config = BrokerConfig(
        (TopicConfig(ALPHA),), limits=Limits(**limits), control=ControlConfig(clients=clients)
    )
    return Registry(config, lambda ip: False)


def test_one_address_is_in_no_more_than_a_share_of_the_groups() -> None:
    members = registry()
    share = Limits().groups_per_client
    for port in range(share):
        members.subscribe("alpha", None, (IP, 1 + port), port, 0.0)
    with pytest.raises(
        Refused, match=rf"members at {IP} are in {share} groups of 'alpha' already"
    ) as refused:
        members.subscribe("alpha", None, (IP, 100), 100, 0.0)
    assert refused.value.code == Code.LIMIT
    assert "limits.groups_per_client" in refused.value.hint
    # In those that there are it finds room, and others find theirs.
    members.subscribe("alpha", "others", ("10.1.1.2", 1), 101, 0.0)
    members.subscribe("alpha", "others", (IP, 100), 102, 0.0)


def test_one_client_is_in_no_more_than_a_share_wherever_it_asks_from() -> None:
    members = registry(groups_per_client=2)
    for host in range(2):
        members.subscribe("alpha", None, (f"10.1.2.{host}", 1), host, 0.0, who="one")
    with pytest.raises(Refused, match="client 'one' is in 2 groups of 'alpha' already"):
        members.subscribe("alpha", None, ("10.1.2.9", 1), 9, 0.0, who="one")
    members.subscribe("alpha", None, ("10.1.2.9", 1), 9, 0.0, who="two")
