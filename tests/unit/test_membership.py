"""Memberships: joining, renewing, leaving, expiring, limits, and what members say they got."""

import pytest

from tempos import ConfigError, Group, Member, Topic
from tempos.control import Code
from tempos_broker.account.accounts import Holder
from tempos_broker.config.model import BrokerConfig, Limits, StaticMember, TopicConfig
from tempos_broker.membership import Refused, Registry

A, B, C = ("10.0.2.2", 5001), ("10.0.2.2", 5002), ("10.0.2.3", 5001)
CLIENT = 77


def registry(**limits: int) -> Registry:
    topics = (
        TopicConfig(Topic(1, "alpha")),
        TopicConfig(Topic(2, "beta"), (StaticMember("10.0.9.9", 9998, "fixed"), StaticMember("10.0.9.8"))),
    )
    return Registry(BrokerConfig(topics, limits=Limits(**limits)), lambda ip: ip == "10.0.1.1")


def test_groups_keep_the_order_of_joining_and_a_missing_name_is_a_group_of_its_own() -> None:
    members = registry()
    members.subscribe("alpha", "workers", A, CLIENT, 0)
    assert members.subscribe("alpha", None, B, CLIENT, 0).group == "~10.0.2.2:5002"
    members.subscribe("alpha", "workers", C, CLIENT, 0)
    assert members.groups(1) == (
        Group("workers", (Member(*A), Member(*C))),
        Group("~10.0.2.2:5002", (Member(*B),)),
    )
    assert members.holders(1)[0] == ("workers", [Holder(*A, CLIENT), Holder(*C, CLIENT)])
    assert members.version(1) == 4
    assert [group.name for group in members.groups(2)] == ["fixed", "~10.0.9.8:9998"]
    assert members.holders(2)[0] == ("fixed", [Holder("10.0.9.9", 9998, None)])


def test_subscribing_again_renews_the_lease_and_changes_nothing() -> None:
    members = registry()
    members.subscribe("alpha", "workers", A, CLIENT, 0)
    version = members.version(1)
    members.subscribe("alpha", "workers", A, CLIENT, 5)
    assert members.version(1) == version
    assert members.next_expiry() == 15
    assert members.expire(14.9) == {}
    assert members.expire(15) == {1: [Member(*A)]}
    assert members.groups(1) == ()
    assert members.version(1) == version + 1
    assert members.next_expiry() is None


def test_a_restarted_client_on_the_same_endpoint_is_another_holder() -> None:
    members = registry()
    members.subscribe("alpha", "workers", A, CLIENT, 0)
    version = members.version(1)
    members.subscribe("alpha", "workers", A, CLIENT + 1, 1)
    assert members.version(1) > version
    assert members.holders(1) == [("workers", [Holder(*A, CLIENT + 1)])]
    assert members.heartbeat(A, CLIENT, 2) is None


def test_a_heartbeat_renews_every_membership_of_the_endpoint_and_only_of_its_client() -> None:
    members = registry()
    members.subscribe("alpha", "workers", A, CLIENT, 0)
    members.subscribe("beta", "workers", A, CLIENT, 0)
    assert members.heartbeat(A, CLIENT, 8)
    assert members.next_expiry() == 18
    assert members.heartbeat(A, CLIENT + 1, 9) is None
    assert members.heartbeat(B, CLIENT, 9) is None
    assert members.goodbye(A, CLIENT) == {1, 2}


def test_a_drain_takes_a_member_out_at_once_and_is_remembered() -> None:
    members = registry()
    members.subscribe("alpha", "workers", A, CLIENT, 0)
    members.subscribe("beta", "workers", A, CLIENT, 0)
    first = members.drain(A, CLIENT, 1, 5)
    assert (first.topics, first.deadline) == ({1, 2}, 6)
    assert members.groups(1) == ()
    assert members.drain(A, CLIENT, 3, 5) is first, "a repeated request changes nothing"
    assert members.heartbeat(A, CLIENT, 4) == set(), "it may still tell what arrived"
    assert members.next_expiry() == 16
    members.expire(16)
    with pytest.raises(Refused, match="no member"):
        members.drain(A, CLIENT, 16, 5)
    with pytest.raises(Refused, match="no member"):
        members.drain(B, CLIENT, 1, 5)


def test_static_members_have_no_lease_and_cannot_be_taken_over_or_out() -> None:
    members = registry()
    static = ("10.0.9.9", 9998)
    with pytest.raises(Refused, match="static member") as refused:
        members.subscribe("beta", "fixed", static, CLIENT, 0)
    assert refused.value.code == Code.NOT_ALLOWED
    assert not members.unsubscribe("beta", "fixed", static, CLIENT)
    assert members.expire(1e9) == {}
    assert members.member_count(2) == 2


@pytest.mark.parametrize(
    ("topic", "group", "endpoint", "code"),
    [
        ("gamma", None, C, Code.UNKNOWN_TOPIC),
        ("alpha", "~mine", C, Code.BAD_REQUEST),
        ("alpha", "others", A, Code.NOT_ALLOWED),
        ("alpha", "workers", ("10.0.1.1", 9998), Code.NOT_ALLOWED),
        ("alpha", "workers", C, Code.LIMIT),
        ("alpha", "third", C, Code.LIMIT),
    ],
)
def test_refusals_say_why_and_what_to_do(
    topic: str, group: str | None, endpoint: tuple[str, int], code: str
) -> None:
    members = registry(members_per_group=1, groups_per_topic=2)
    members.subscribe("alpha", "workers", A, CLIENT, 0)
    members.subscribe("alpha", None, B, CLIENT, 0)
    before = members.groups(1)
    with pytest.raises(Refused) as refused:
        members.subscribe(topic, group, endpoint, CLIENT, 1)
    assert refused.value.code == code
    assert refused.value.hint
    assert members.groups(1) == before


def test_a_static_member_that_is_the_broker_itself_is_refused() -> None:
    looped = BrokerConfig((TopicConfig(Topic(1, "alpha"), (StaticMember("10.0.1.1"),)),))
    with pytest.raises(ConfigError, match="round for ever"):
        Registry(looped, lambda ip: True)


def test_leaving_is_idempotent() -> None:
    members = registry()
    members.subscribe("alpha", None, A, CLIENT, 0)
    assert not members.unsubscribe("alpha", None, A, CLIENT + 1), "another client's"
    assert members.unsubscribe("alpha", None, A, CLIENT)
    assert not members.unsubscribe("alpha", None, A, CLIENT)
    assert members.goodbye(A, CLIENT) == set()


def queues(**limits: float) -> Registry:
    topics = [TopicConfig(Topic(258, "queue", journal=8, redeliver=True)), TopicConfig(Topic(2, "plain"))]
    return Registry(BrokerConfig(tuple(topics), limits=Limits(**limits)), lambda ip: False)  # type: ignore[arg-type]


def test_a_queue_whose_last_member_dies_waits_for_the_next_one() -> None:
    members = queues(vacant=100.0)
    for topic in ("queue", "plain"):
        for endpoint in (A, B):
            members.subscribe(topic, "work", endpoint, CLIENT, 0)
    members.subscribe("queue", None, C, CLIENT, 0)
    assert members.expire(10) == {258: [Member(*A), Member(*B), Member(*C)], 2: [Member(*A), Member(*B)]}
    assert members.groups(2) == ()
    ((name, (nobody,)),) = ((group.name, group.members) for group in members.groups(258))
    assert (name, nobody.is_nobody, str(nobody)) == ("work", True, "0.1.2.1:9")
    ((_, (holder,)),) = members.holders(258)
    assert members.lease_of(holder) is not None
    # It takes nobody's room, and is no more when somebody comes.
    members.subscribe("queue", "work", A, CLIENT + 1, 50)
    assert members.groups(258) == (Group("work", (Member(*A),)),)
    assert members.lease_of(holder) is None
    # Who leaves in order says that it is over.
    members.goodbye(A, CLIENT + 1)
    assert members.groups(258) == ()
    assert members.next_expiry() is None


def test_a_queue_waits_for_so_long_and_of_a_topic_so_many_do() -> None:
    members = queues(vacant=100.0, groups_per_client=2, members_per_group=1)
    for number, group in enumerate(("a", "b", "c")):
        members.subscribe("queue", group, ("10.0.2.2", 7000 + number), number, number)
        members.expire(20 + number)
    assert [group.name for group in members.groups(258)] == ["a", "b"]
    assert members.evict(258, "b", ("0.1.2.2", 9), 30) is not None
    assert [group.name for group in members.groups(258)] == ["a"]
    members.subscribe("queue", "b", A, CLIENT, 30)
    assert members.evict(258, "b", A, 31) is not None
    assert [each.name for each in members.groups(258) if each.members[0].is_nobody] == ["a", "b"]
    ((place, *_),) = (each.members for each in members.groups(258) if each.name == "a")
    assert place in members.expire(120)[258]
    assert [group.name for group in members.groups(258)] == ["b"]
    members.amend(TopicConfig(Topic(258, "queue")), 121)
    assert members.groups(258) == ()


def test_a_queue_waits_in_the_next_life_if_it_still_is_one() -> None:
    members = queues(vacant=100.0)
    place = ("0.1.2.1", 9)
    assert members.restore(258, "work", place, 5, 3.0)
    assert not members.restore(2, "work", ("0.0.2.1", 9), 5, 3.0)
    assert members.expire(100) == {}
    assert members.expire(103) == {258: [Member(*place)]}
    assert not queues(vacant=0).restore(258, "work", place, 5, 3.0)


def test_a_restarted_client_on_the_same_endpoint_may_be_in_another_group() -> None:
    members = registry()
    members.subscribe("alpha", "one", A, CLIENT, 0)
    with pytest.raises(Refused, match="in group 'one' of this topic already"):
        members.subscribe("alpha", "two", A, CLIENT, 1)
    members.subscribe("alpha", "two", A, CLIENT + 1, 1)
    assert members.holders(1) == [("two", [Holder(*A, CLIENT + 1)])]
    assert members.heartbeat(A, CLIENT, 2) is None
