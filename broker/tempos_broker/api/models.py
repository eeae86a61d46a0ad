"""What the control API says, as types: for its OpenAPI document; nothing of it is needed to serve."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tempos_broker.account.changes import Kind

Count = Annotated[int, Field(description="datagrams")]
Reasons = Annotated[dict[str, int], Field(description="reason -> datagrams")]


class MemberOut(BaseModel):
    """A member in the route."""

    model_config = ConfigDict(populate_by_name=True)

    ip: str
    port: int
    static: bool
    source: str | None = Field(
        alias="from",
        description="the broker's address that its events leave from; null: the one that its kernel prefers",
    )
    lease_s: float | None = Field(description="seconds; null for a static member")
    left_out: str = Field(description="why nothing is sent to it; empty: it is")
    in_route: bool = Field(
        default=True, description="false: it is ticketed nothing, others of its group get its share meanwhile"
    )
    unheard: Count = Field(
        default=0,
        description="events sent to it since it last told of one it got, where nothing seems to reach it",
    )
    ticketed: Count
    delivered: int | None = Field(description="as the member says; null for a static one, which says nothing")
    dropped: int | None = Field(description="reached the member, which did not give it to its program")
    waiting: int | None = Field(description="events that wait for its program, over all its topics")
    queue: int | None = Field(description="how many may; null: it does not say")
    overruns: int | None = Field(description="lost at its socket, over all its topics, as far as it can tell")


class GroupAccount(BaseModel):
    """A group: tickets = delivered + dropped + unconfirmed + lost + unknown + filtered + sampled.

    unsent is in unconfirmed, lost and unknown.
    """

    name: str = Field(description="~: the sum of all groups that nobody is in any more")
    tickets: Count
    delivered: Count
    dropped: Count = Field(description="reached a member that did not give it to its program")
    unconfirmed: Count
    lost: Count
    unknown: Count
    filtered: Count = Field(default=0, description="of senders that the group takes nothing of")
    sampled: Count = Field(default=0, description="left out, as the group gets one of so many")
    unsent: Count
    repaired: Count = Field(default=0, description="of what reached members, what they had to ask for again")
    given_up: Count = Field(
        default=0, description="of what is unconfirmed or lost, what members ask for no more"
    )
    orphaned: Count = Field(
        default=0,
        description="sent to members that are gone, and not known to be processed by them; "
        "= redelivered + pending + lapsed",
    )
    redelivered: Count = Field(default=0, description="of these, processed by other members since")
    pending: Count = Field(default=0, description="to be handed to other members")
    lapsed: Count = Field(default=0, description="not to be had any more: the journal was too small")


class GroupOut(GroupAccount):
    """A group with its present members."""

    lost_at: str | None = Field(
        default=None,
        description="since when it loses nothing, as nobody is in it or awaited any more, UTC; "
        "null: somebody is, or nothing was lost",
    )
    members: list[MemberOut]


class TimesOut(BaseModel):
    """Times in ns. A percentile is never less than it was, at most an eighth more; the maximum is exact."""

    count: Count
    p50_ns: int | None
    p99_ns: int | None
    p999_ns: int | None
    max_ns: int | None
    ahead: int = Field(description="of these, sent after they were forwarded: the clocks disagree")
    beyond: int = Field(description="of these, longer than 17 s")
    buckets: list[tuple[int, int, int]] = Field(description="from, below which, how many; none that is empty")


class VolumeOut(BaseModel):
    """Bytes of payload on one path."""

    received: Count = Field(description="that came and stayed there: what it refused is the difference")
    forwarded: Count = Field(description="that it handed to every group")


class BytesOut(BaseModel):
    """Bytes of payload, by the path that they stayed on; since this broker started."""

    fast: VolumeOut
    slow: VolumeOut


class LatencyOut(BaseModel):
    """How long either path took for the events that it forwarded."""

    program: TimesOut | None = Field(
        description="fast path: from its program's entry to the redirect; null unless fastpath.latency is on"
    )
    since_sent: TimesOut | None = Field(
        description="fast path: from the send time in the event to the redirect; by two clocks"
    )
    slow: TimesOut | None = Field(
        default=None,
        description="slow path: from taking an event out of its socket to when the kernel had its last copy; "
        "null where it forwarded none, or quality.latency is off",
    )
    slow_since_sent: TimesOut | None = Field(
        default=None, description="slow path: from the send time in the event to then; by two clocks"
    )


class LostBefore(BaseModel):
    """What publishers sent and what drew no ticket: lost before the broker, or refused by it. In events."""

    publishers: int = Field(description="that were ever heard of")
    forgotten: int = Field(description="of these, only in the sums")
    unfollowed: int = Field(description="found no room, are in no sum")
    sent: int
    at_least: int
    at_most: int | None = Field(description="null: nobody can tell")
    settled: bool = Field(description="told to the last words of all; otherwise so far")
    repaired: int = Field(default=0, description="datagrams that were lacking and came when asked for again")
    given_up: int = Field(default=0, description="events that publishers say to ask for no more")


class PublisherOut(BaseModel):
    """The account of one publisher on one topic, in events."""

    publisher: int = Field(description="the number in its events")
    ip: str | None
    tells: bool = Field(description="it says what it has sent; otherwise that is taken from its numbers")
    final: bool = Field(description="it has said that it sends no more")
    sent: int
    datagrams: int | None
    received: dict[str, int] = Field(description="by group")
    at_least: int = Field(description="drew no ticket")
    at_most: int | None
    whole: bool = Field(description="of all it sent; otherwise of what came after the first that a group got")
    settled: bool = Field(description="to its last word; otherwise as far as members have told")
    repaired: int = Field(default=0, description="datagrams that were lacking and came when asked for again")
    given_up: int = Field(default=0, description="events that it says to ask for no more")


class JournalOut(BaseModel):
    """The journal of a topic: its latest events."""

    events: int = Field(description="so many are kept")
    bytes: int = Field(description="of payload, of each; larger events are named without it")
    memory: int = Field(description="bytes")
    replays: int = Field(default=0, description="how often members asked for what was before them")
    replayed: int = Field(default=0, description="events that they were handed for that")
    aside: int = Field(
        default=0, description="events that wait to be handed out again, copied out of it before they go"
    )
    reason: str = Field(description="why there is none; empty: there is")


class EventOut(BaseModel):
    """An event as a journal has it."""

    position: int = Field(description="grows from one event to the next")
    epoch: int
    tickets: list[int] = Field(description="by group, as the route of the epoch has them")
    time: float = Field(description="when it came, Unix time in s")
    length: int = Field(description="bytes of payload")
    payload: str | None = Field(description="base64; null: larger than the journal keeps")
    missed: int = Field(description="events right before it that are not there (any more)")
    at_least: bool = Field(description="they may be more: nobody remembers how many their epoch had")


class TapOut(BaseModel):
    """The next events of a journal."""

    topic: str
    framing: Literal["raw", "event", "foreign"]
    journal: str = Field(description="whose positions these are; another one begins anew")
    events: list[EventOut]
    missed: int = Field(description="events between these that are not in it (any more)")
    next: int = Field(description="ask for those after this position")
    more: bool = Field(description="there are more already")


class GroupOptionsOut(BaseModel):
    """What holds of one group of a foreign topic."""

    name: str
    sources: list[str] = Field(description="the networks of which it gets what they send; none: all")
    every: int = Field(description="of that its members get one in so many")
    source: Literal["own", "keep"] = Field(
        default="own", description="what it gets comes from the broker's address, or from the sender's"
    )
    down_after: float = Field(
        default=3.0, description="seconds after which a member that takes nothing is out; 0: never"
    )
    probe: Literal["none", "udp", "tcp"] = Field(default="none", description="how members are asked besides")
    probe_port: int = Field(default=0, description="where; 0: at their own port")


class TopicOut(BaseModel):
    """A topic: received = fast + slow + refused."""

    model_config = ConfigDict(populate_by_name=True)

    id: int
    name: str
    quality: Literal["SQ", "BQ"] = Field(alias="class")
    priority: int
    framing: Literal["raw", "event", "foreign"]
    rate: int = Field(description="datagrams per second that are taken; 0: any number")
    burst: int = Field(description="datagrams that may come at once; 0: any number")
    overflow: Literal["drop", "pass"] = Field(description="what happens to the others")
    sources: list[str] = Field(description="the networks whose events are taken; none: all")
    ports: list[int] = Field(description="of a foreign topic: where its events come in; none: the data port")
    pick: Literal["turn", "source", "source-port"] = Field(
        description="which member of a group gets an event"
    )
    prefer: Literal["any", "zone"] = Field(
        default="any", description="which members of a group go first, in a fleet"
    )
    passed_over: dict[str, Count] = Field(
        default_factory=dict, description="members of other zones that get nothing from here now, by group"
    )
    group_options: list[GroupOptionsOut] = Field(
        default=[], description="of groups of a foreign topic that have any"
    )
    fanout: Literal["auto", "xdp", "tc"]
    unheard: Literal["auto", "warn", "evict"] = Field(
        description="what happens to members that events do not reach"
    )
    journal: JournalOut | None = Field(description="what is kept of its events; null: nothing")
    retain: bool = Field(description="whether a new member first gets the last event")
    repair: bool = Field(description="whether members can have sent again what they miss")
    redeliver: bool = Field(
        default=False, description="whether what members that are gone have not processed goes to others"
    )
    origin: Literal["file", "run-time"] = Field(
        description="who made it: the configuration file, or an order"
    )
    durable: bool = Field(description="whether it is there again after a restart of the broker")
    policy: Literal["auto", "fast", "slow"]
    path: Literal["fast", "slow"] | None
    reason: str = Field(description="why this path")
    moves: int = Field(default=0, description="how often it went from one path to the other since the start")
    epoch: int
    received: Count
    fast: Count
    slow: Count
    refused: Reasons
    replies: Count = Field(description="replies to requests that were sent on: no events, not in received")
    lost: Reasons
    passed: Reasons
    balanced: bool
    problems: list[str]
    bytes: BytesOut
    latency: LatencyOut | None = Field(description="null where nothing was measured")
    lost_before: LostBefore
    groups: list[GroupOut]


class PathOut(BaseModel):
    """Which path serves a topic, and why."""

    topic: str
    policy: Literal["auto", "fast", "slow"]
    path: Literal["fast", "slow"] | None
    reason: str


class RouteGroup(BaseModel):
    """The members of a group, in the order in which events go to them."""

    name: str
    members: list[str]


class RouteOut(BaseModel):
    """The route in force."""

    topic: str
    epoch: int
    path: Literal["fast", "slow"] | None
    groups: list[RouteGroup]


class LedgerMember(BaseModel):
    """The account of a member."""

    ip: str
    port: int
    static: bool
    left: bool
    ticketed: Count
    delivered: int | None
    dropped: int | None = Field(description="reached the member, which did not give it to its program")
    unconfirmed: Count
    lost: Count
    repaired: Count = Field(default=0, description="of what it got, what it had to ask for again")
    given_up: Count = Field(default=0, description="of what it did not get, what it asks for no more")
    overruns: int | None = Field(description="lost at its socket, over all its topics, as far as it can tell")


class LedgerGroup(GroupAccount):
    """The account of a group, with those of its members that left."""

    members: list[LedgerMember]


class LedgerTopic(BaseModel):
    """The account of a topic."""

    id: int
    name: str
    epoch: int
    received: Count
    fast: Count
    slow: Count
    refused: Reasons
    replies: Count = Field(description="replies to requests that were sent on: no events, not in received")
    unsent: Reasons
    balanced: bool
    problems: list[str]
    lost_before: LostBefore
    publishers: list[PublisherOut]
    groups: list[LedgerGroup]


class LedgerOut(BaseModel):
    """The account of every topic."""

    balanced: bool
    topics: list[LedgerTopic]
    unattributed: Reasons
    drops: dict[str, dict[str, int]] = Field(
        description="frames lost behind the redirect, by interface and error"
    )


class ChangeOut(BaseModel):
    """A change of what the broker serves."""

    number: int = Field(description="running; one that grows gets the next")
    at: str = Field(description="when, UTC")
    kind: Kind
    severity: Literal["info", "warning"]
    text: str = Field(description="the whole, for people")
    topics: list[str] = Field(description="the first of them, by name")
    topic_count: int
    group: str
    members: list[str] = Field(description="the first of them, ip:port")
    member_count: int


class FindingOut(BaseModel):
    """What a check of `tempos doctor` found. Times are Unix seconds."""

    code: str = Field(description="as the manual lists them: TD and three digits")
    name: str
    subject: str = Field(description="what it is about: a topic, a group of it, a member; empty: the broker")
    severity: Literal["note", "unknown", "warning", "fault"]
    cause: str
    means: str = Field(description="what follows")
    fix: str = Field(description="a command, or empty")
    since: float
    before: bool = Field(description="so it was at the start already, which is what `since` tells")
    changed: float = Field(description="when it was another one last")
    now: bool = Field(description="it holds, or went on within the last minute; otherwise it went wrong once")


class WrongOut(BaseModel):
    """What is wrong, the worst of now first; looked at within the last second."""

    at: float = Field(description="now, Unix seconds")
    wrong: list[FindingOut]


class ChangesOut(BaseModel):
    """The last changes, the oldest first."""

    instance: int = Field(description="with another one numbers begin anew")
    pid: int = Field(description="the same")
    last: int = Field(description="the number of the last change: ask for those since it")
    changes: list[ChangeOut]


class OptionsOut(BaseModel):
    """The options of a topic by the keys of a ``[[topic]]`` of the file, but for those that are left out."""

    origin: Literal["file", "run-time"]
    options: dict[str, Any]


class TopicRemoved(BaseModel):
    """A topic that is no more, with the account that it ended with."""

    removed: str = Field(description="its name")
    id: int
    members: int = Field(description="that were taken out")
    ticketed: Count = Field(description="for those of them that have a lease")
    delivered: Count = Field(description="what they have confirmed of it")
    confirmed: bool = Field(description="whether they have confirmed all")
    account: LedgerTopic


class ClientOut(BaseModel):
    """A client that signs what it asks, and its rights."""

    id: str
    origin: Literal["file", "run-time"] = Field(description="who made it")
    publish: list[str] = Field(description="topics by name or filter, or * for every one")
    subscribe: list[str]
    durable: bool = Field(description="whether it is there again after a restart of the broker")


class ClientsOut(BaseModel):
    """Who may ask the broker."""

    signed: bool = Field(description="whether requests have to be signed, but for control.open_networks")
    clients: list[ClientOut]


class ClientRemoved(BaseModel):
    """A client that is no more."""

    removed: str = Field(description="its id")
    clients: int = Field(description="that are left; with none, nobody but control.open_networks may ask")


class FleetMemberOut(BaseModel):
    """A member of the fleet; ``here``: this broker sends to it."""

    ip: str
    port: int
    home: str = Field(description="the broker that hears its heartbeats, by name")
    wants: dict[str, str] = Field(description="names and filters, each with its group")
    here: bool


class FleetDrain(BaseModel):
    """Whether a broker of the fleet is in service."""

    broker: str
    in_service: bool


class KeptOutOut(BaseModel):
    """A place in a group that is kept empty."""

    topic: str
    group: str
    ip: str
    port: int
    why: Literal["kept out", "unheard"] = Field(description="an operator's order, or no event reached it")
    seconds: float | None = Field(description="that are left; null: until it is let in")
    until: str = Field(description="the end, for people")


class DrainOut(BaseModel):
    """What was ticketed for the member, and what of it was confirmed in time."""

    ticketed: Count
    delivered: Count
    confirmed: bool
    kept_out: KeptOutOut | None = Field(description="null: it may come back at once")


class Removed(BaseModel):
    """The member is out of the route on both paths."""

    removed: str
    kept_out: KeptOutOut | None = Field(description="null: it may come back at once")


class LetIn(BaseModel):
    """Who may come back, and will when it asks next."""

    let_in: str


class Reloaded(BaseModel):
    """What the reload changed, a line each."""

    changes: list[str]
