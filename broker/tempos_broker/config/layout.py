"""The broker's own configuration format: its tables of keys, and the rules that span several keys.

The tables are the one description of the format: reading, writing, the unknown-key faults and the
tests of the example file are made from them. Each rule judges only values that are sound by
themselves, so a file is told all its faults at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

from tempos import Fanout, Framing, Overflow, PathPolicy, Pick, Prefer, Quality, Topic, Unheard
from tempos._abi import (
    EVENT_HEADER_LEN,
    JOURNAL_BYTES,
    JOURNAL_MOST_BYTES,
    JOURNAL_MOST_EVENTS,
    MAX_LISTEN,
    MAX_MEMBERS,
    MAX_SOURCES,
    NARROW,
    PRIORITIES,
    TOPIC_MAX,
    TOPIC_MIN,
    WIDE,
    WIDE_IDS,
)
from tempos._slots import MOST_GROUPS, MOST_MEMORY, JournalLayout
from tempos_broker.config import own_kinds
from tempos_broker.config.groups import GROUP, build_group, rule_groups, rule_pick
from tempos_broker.config.model import (
    OWN_GROUP,
    BrokerConfig,
    ClientConfig,
    ControlConfig,
    FastPathConfig,
    FleetConfig,
    Limits,
    QualityConfig,
    StateConfig,
    StaticMember,
    TopicConfig,
)
from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Kind, Table, count, show

#: An IPv4 datagram is at most 65,535 bytes, 28 of them headers.
MAX_PAYLOAD = 65507
#: UIO_MAXIOV: more messages the kernel does not take in one sendmmsg or recvmmsg.
MAX_BATCH = 1024
#: The kernel doubles what SO_RCVBUF asks for, in an int.
MAX_RECEIVE_BUFFER = 2**30
MAX_QUEUE = 2**20
#: Requests per second; no single process answers more.
MAX_RATE = 1_000_000
#: Datagrams per second: ten nanoseconds apart, beyond what any of the paths carries.
MAX_TOPIC_RATE = 100_000_000
MAX_BURST = 1_000_000
#: NR_CPUS of the largest kernels.
MAX_CPU = 8191

#: Members that are one object wherever they are the same.
SHARED = 4096
#: More there are no ids for.
MAX_TOPICS = WIDE - TOPIC_MIN + WIDE_IDS

#: Ports of one foreign topic.
MAX_PORTS = 16
#: A member's share, as a multiple of another's.
MAX_WEIGHT = 16

TOPIC_ID = kinds.whole(TOPIC_MIN, TOPIC_MAX, but=WIDE)
_TOPIC = Topic(TOPIC_MIN, "default")
_MEMBER = StaticMember("127.0.0.1")
_BROKER = BrokerConfig(topics=())


def _defaults(values: object, **holds: Kind) -> Keys:
    """Keys named as the fields of a dataclass, with its defaults; tuples are lists in the file."""
    return {
        name: Key(kind, getattr(values, name), many=isinstance(getattr(values, name), tuple))
        for name, kind in holds.items()
    }


MEMBER: Keys = {
    "ip": Key(kinds.UNICAST),
    "port": Key(kinds.PORT, _MEMBER.port),
    "group": Key(kinds.name(reserved=OWN_GROUP), _MEMBER.group),
    "mac": Key(kinds.MAC, _MEMBER.mac),
    "source": Key(kinds.UNICAST, _MEMBER.source),
    "weight": Key(kinds.whole(1, MAX_WEIGHT), _MEMBER.weight),
}
TOPIC: Keys = {
    "id": Key(TOPIC_ID),
    "name": Key(kinds.TOPIC_NAME),
    "class": Key(kinds.member_of(Quality), _TOPIC.quality),
    "priority": Key(kinds.whole(0, PRIORITIES - 1), _TOPIC.priority),
    "framing": Key(kinds.member_of(Framing), _TOPIC.framing),
    "path": Key(kinds.member_of(PathPolicy), _TOPIC.policy),
    "sources": Key(kinds.NETWORK, _TOPIC.sources, many=True, most=MAX_SOURCES),
    "rate": Key(kinds.whole(0, MAX_TOPIC_RATE, note=" (0: no limit)"), _TOPIC.rate),
    "burst": Key(kinds.whole(0, MAX_BURST, note=" (0: what rate gives in 10 ms)"), _TOPIC.burst),
    "overflow": Key(kinds.member_of(Overflow), _TOPIC.overflow),
    "fanout": Key(kinds.member_of(Fanout), _TOPIC.fanout),
    "unheard": Key(kinds.member_of(Unheard), _TOPIC.unheard),
    "journal": Key(kinds.whole(0, JOURNAL_MOST_EVENTS, note=" (0: none)"), _TOPIC.journal),
    "journal_bytes": Key(
        kinds.whole(0, JOURNAL_MOST_BYTES, note=f" (0: {JOURNAL_BYTES})"), _TOPIC.journal_bytes
    ),
    "retain": Key(kinds.FLAG, _TOPIC.retain),
    "repair": Key(own_kinds.REPAIR, _TOPIC.repair),
    "redeliver": Key(kinds.FLAG, _TOPIC.redeliver),
    "ports": Key(kinds.PORT, _TOPIC.ports, many=True, most=MAX_PORTS),
    "pick": Key(kinds.member_of(Pick), _TOPIC.pick),
    "prefer": Key(kinds.member_of(Prefer), _TOPIC.prefer),
    "group": Key(GROUP, (), many=True),
    "member": Key(MEMBER, (), many=True),
}
BROKER: Keys = {
    "listen": Key(kinds.LISTEN, _BROKER.listen, many=True, least=1, most=MAX_LISTEN),
    "data_port": Key(kinds.PORT, _BROKER.data_port),
    "control_port": Key(kinds.PORT, _BROKER.control_port),
    "api": Key(kinds.API, (_BROKER.api_host, _BROKER.api_port)),
    "user": Key(kinds.USER, _BROKER.user),
    "name": Key(kinds.BROKER_NAME, _BROKER.name),
    "api_token": Key(kinds.TOKEN, _BROKER.api_token),
    "api_token_file": Key(kinds.FILE, _BROKER.api_token_file),
    "api_expose": Key(kinds.FLAG, _BROKER.api_expose),
    "adapter": Key(own_kinds.ADAPTER, _BROKER.adapter),
}
FASTPATH: Keys = _defaults(
    FastPathConfig(),
    mode=kinds.choice("auto", "native", "generic", "off"),
    interfaces=kinds.INTERFACE,
    pin=kinds.FLAG,
    when_gone=kinds.choice("continue", "pass"),
    gone_after=kinds.seconds(0.1, 3600),
    on_stop=kinds.choice("keep", "withdraw"),
    latency=kinds.FLAG,
    reverse_path=kinds.FLAG,
)
QUALITY: Keys = _defaults(
    QualityConfig(),
    sockets=kinds.choice("auto", "ebpf", "classic", "one"),
    share_bq=kinds.whole(0, 50, note=" (percent)"),
    latency=kinds.FLAG,
    worker_sq=kinds.FLAG,
    priority_sq=kinds.whole(0, 99, note=" (0: ordinary scheduling)"),
    cpus_sq=kinds.whole(0, MAX_CPU, note=" (the number of a CPU)"),
    cpus_bq=kinds.whole(0, MAX_CPU, note=" (the number of a CPU)"),
    dscp_sq=kinds.whole(0, 63),
    dscp_bq=kinds.whole(0, 63),
    so_priority_sq=kinds.whole(0, 15),
    so_priority_bq=kinds.whole(0, 15),
)
LIMITS: Keys = _defaults(
    Limits(),
    queue_sq=kinds.whole(1, MAX_QUEUE),
    queue_bq=kinds.whole(1, MAX_QUEUE),
    batch=kinds.whole(1, MAX_BATCH),
    datagram=kinds.whole(EVENT_HEADER_LEN, MAX_PAYLOAD),
    receive_buffer=kinds.whole(4096, MAX_RECEIVE_BUFFER),
    members_per_group=kinds.whole(1, MAX_MEMBERS),
    groups_per_topic=kinds.whole(1, MOST_GROUPS),
    groups_per_client=kinds.whole(1, MOST_GROUPS),
    unheard=kinds.choice("warn", "evict"),
    vacant=kinds.seconds(0, 30 * 86400),
    topics=kinds.whole(1, MAX_TOPICS),
)
CONTROL: Keys = _defaults(
    ControlConfig(),
    lease=kinds.seconds(0.05, 3600),
    heartbeat=kinds.seconds(0.01, 3600),
    networks=kinds.NETWORK,
    open_networks=kinds.NETWORK,
    rate=kinds.whole(1, MAX_RATE),
    clock_window=kinds.seconds(1, 3600),
)
CLIENT: Keys = {
    "id": Key(kinds.KEY_ID),
    "key": Key(kinds.SECRET),
    "publish": Key(own_kinds.RIGHT, (), many=True),
    "subscribe": Key(own_kinds.RIGHT, (), many=True),
}
STATE: Keys = _defaults(StateConfig(), file=own_kinds.STATE_FILE)
FLEET: Keys = _defaults(
    FleetConfig(),
    name=own_kinds.FLEET,
    etcd=own_kinds.ENDPOINT,
    user=own_kinds.ETCD_USER,
    password=own_kinds.PASSWORD,
    ca=kinds.FILE,
    certificate=kinds.FILE,
    key=kinds.FILE,
    address=own_kinds.FLEET_ADDRESS,
    zone=own_kinds.ZONE,
    lease=kinds.seconds(2, 3600),
    share=kinds.choice("topics", "keys"),
)
FILE: Keys = {
    "broker": Key(BROKER, {}),
    "state": Key(STATE, {}),
    "fastpath": Key(FASTPATH, {}),
    "quality": Key(QUALITY, {}),
    "limits": Key(LIMITS, {}),
    "control": Key(CONTROL, {}),
    "fleet": Key(FLEET, {}),
    "client": Key(CLIENT, (), many=True),
    "topic": Key(TOPIC, (), many=True, most=MAX_TOPICS),
}


def finish(root: Table, faults: Faults) -> BrokerConfig | None:
    """Apply the rules that span several keys; the configuration, or None if there are any faults."""
    for rule in RULES:
        rule(root, faults)
    return None if faults.problems else _build(root)


def _rule_listen(root: Table, faults: Faults) -> None:
    listen = _sound(root.get("broker"), "listen")
    if kinds.ANY_ADDRESS in listen and len(listen) > 1:
        faults.add(
            root.get("broker").at("listen"),
            f'has "{kinds.ANY_ADDRESS}" beside other addresses; allowed: "{kinds.ANY_ADDRESS}" alone',
        )


def _rule_ports(root: Table, faults: Faults) -> None:
    broker = root.get("broker")
    listen = _sound(broker, "listen")
    ports = [(key, broker.get(key)) for key in ("data_port", "control_port") if broker.get(key)]
    host, api_port = broker.get("api") or ("", 0)
    if api_port and (host in listen or kinds.ANY_ADDRESS in (host, *listen)):
        ports.append(("api", api_port))
    first: dict[int, str] = {}
    for key, port in ports:
        if first.setdefault(port, key) != key:
            faults.add(
                broker.at(key),
                f"has port {port}, as {broker.at(first[port])} has; allowed: a port of its own",
            )


def _rule_api(root: Table, faults: Faults) -> None:
    broker = root.get("broker")
    host, port = broker.get("api") or ("", 0)
    token, file = broker.get("api_token"), broker.get("api_token_file")
    if token and file:
        beside = broker.at("api_token")
        faults.add(broker.at("api_token_file"), f"stands beside {beside}; allowed: one of them")
    if not port or kinds.is_loopback(host):
        return
    # Either may be faulty itself; then nothing is said of it here.
    if token == "" and file == "":
        faults.add(
            broker.at("api"),
            f"is {host}:{port}, which others can reach, without a token; allowed: a loopback address, or "
            f"{broker.at('api_token')} or {broker.at('api_token_file')} besides",
        )
    if broker.get("api_expose") is False:
        faults.add(
            broker.at("api"),
            f"is {host}:{port}, which others can reach; allowed: a loopback address, or "
            f"{broker.at('api_expose')} = true besides",
        )


def _rule_lease(root: Table, faults: Faults) -> None:
    control = root.get("control")
    lease, heartbeat = control.get("lease"), control.get("heartbeat")
    if lease is not None and heartbeat is not None and heartbeat >= lease:
        faults.refuse(
            control.at("heartbeat"), heartbeat, f"less than {control.at('lease')}, which is {lease}"
        )


def _rule_fleet_topics(root: Table, faults: Faults) -> None:
    for topic in _tables(root, "topic") if root.get("fleet").get("name") else ():
        if topic.get("redeliver"):
            faults.refuse(topic.at("redeliver"), True, "false", "in a fleet, which does not do that yet")


def _rule_fleet(root: Table, faults: Faults) -> None:
    fleet, broker = root.get("fleet"), root.get("broker")
    name, etcd, address = fleet.get("name"), fleet.get("etcd"), fleet.get("address")
    if name == "":
        for key in FLEET:
            value = fleet.get(key)
            if value is not None and value != FLEET[key].default:
                faults.add(
                    fleet.at(key), f"is set, but there is no fleet; allowed: a {fleet.at('name')} besides"
                )
        return
    if etcd == ():
        faults.add(fleet.at("etcd"), "is empty; allowed: the URLs of its members, at least one")
    for key, other in (("password", "user"), ("user", "password"), ("key", "certificate")):
        if fleet.get(key) and fleet.get(other) == "":
            faults.add(fleet.at(key), f"is set; allowed: with {fleet.at(other)} besides")
    listen = _sound(broker, "listen")
    if not name or not listen or address is None:
        return
    if address and not {address, kinds.ANY_ADDRESS} & set(listen):
        faults.refuse(
            fleet.at("address"), address, f"one of {broker.at('listen')}, which are {', '.join(listen)}"
        )
    if not address and kinds.ANY_ADDRESS in listen:
        faults.add(
            fleet.at("address"),
            f"is not set, and {broker.at('listen')} is every address; allowed: the one that members know "
            "this broker by",
        )


def _rule_quality(root: Table, faults: Faults) -> None:
    quality = root.get("quality")
    worker = quality.at("worker_sq")
    # What only the SQ worker makes use of must not stand there in vain.
    if quality.get("worker_sq") is False and quality.get("cpus_sq"):
        faults.add(
            quality.at("cpus_sq"), f"is set, but there is no SQ worker; allowed: {worker} = true besides"
        )
    if quality.get("worker_sq") and quality.get("sockets") == "one":
        faults.add(
            worker,
            f'is true, but {quality.at("sockets")} is "one"; allowed: a socket for each class',
        )


def _rule_rates(root: Table, faults: Faults) -> None:
    for topic in _saying(root, "burst", "overflow"):
        if topic.get("rate") != 0:
            continue
        for key in ("burst", "overflow"):
            value = topic.get(key)
            if value is not None and value != TOPIC[key].default:
                shown = value.value if isinstance(value, Overflow) else value
                faults.refuse(topic.at(key), shown, f"a {topic.at('rate')} above 0 besides", "without a rate")


def _rule_journal(root: Table, faults: Faults) -> None:
    for topic in _saying(root, "journal", "journal_bytes", "retain"):
        events, size = topic.get("journal"), topic.get("journal_bytes")
        if events is None or size is None or not (events or size or topic.get("retain")):
            continue
        if topic.get("retain") and not events:
            wanted = f"a {topic.at('journal')} above 0 besides"
            faults.refuse(topic.at("retain"), value=True, allowed=wanted, why="without a journal")
        if size and not events:
            wanted = f"a {topic.at('journal')} above 0 besides"
            faults.refuse(topic.at("journal_bytes"), size, wanted, "without a journal")
        elif (taken := JournalLayout.of(events, size or JOURNAL_BYTES).size) > MOST_MEMORY:
            faults.add(
                topic.at("journal"),
                f"takes {taken >> 20:,} MB with {size or JOURNAL_BYTES} bytes of each event; "
                f"allowed: at most {MOST_MEMORY >> 20:,} MB",
            )


def _rule_repair(root: Table, faults: Faults) -> None:
    for topic in _saying(root, "repair", "redeliver"):
        for key in ("repair", "redeliver"):
            if not topic.get(key):
                continue
            if topic.get("journal") == 0:
                wanted = f"a {topic.at('journal')} above 0 besides"
                faults.refuse(topic.at(key), True, wanted, "without a journal")
            if topic.get("framing") in (Framing.RAW, Framing.FOREIGN):
                wanted = f'{topic.at("framing")} = "event" besides'
                faults.refuse(topic.at(key), True, wanted, "of a raw topic, whose events carry no numbers")


def _rule_foreign(root: Table, faults: Faults) -> None:
    broker = root.get("broker")
    own = {broker.get(key): broker.at(key) for key in ("data_port", "control_port")}
    for topic in _saying(root, "ports", "framing"):
        ports, framing = _sound(topic, "ports"), topic.get("framing")
        if not ports and framing is not Framing.FOREIGN:
            continue
        if framing is Framing.FOREIGN and not topic.get("ports"):
            wanted = f"{topic.at('ports')} besides, where its events come in"
            faults.refuse(topic.at("framing"), framing.value, wanted, "without a port")
        elif ports and framing is not None and framing is not Framing.FOREIGN:
            wanted = f'{topic.at("framing")} = "foreign" besides'
            why = "of a topic whose events come to the data port"
            faults.refuse(topic.at("ports"), list(ports), wanted, why)
        id_ = topic.get("id")
        if framing is Framing.FOREIGN and id_ is not None and id_ < NARROW:
            why = "of a foreign topic, whose events begin with any byte"
            faults.refuse(topic.at("id"), id_, f"{NARROW} to {TOPIC_MAX}", why)
        for port, times in Counter(ports).items():
            if times > 1:
                faults.add(topic.at("ports"), f"names {port} more than once; allowed: each port once")
            if port in own:
                faults.add(topic.at("ports"), f"names {port}, as {own[port]} is; allowed: a port of its own")


def _rule_topics(root: Table, faults: Faults) -> None:
    taken: dict[int, Table] = {}
    for topic in _saying(root, "ports"):
        for port in _sound(topic, "ports"):
            if taken.setdefault(port, topic) is not topic:
                has = f"names {port}, as {taken[port].at('ports')} does"
                faults.add(topic.at("ports"), f"{has}; allowed: a port of one topic only")
    for key in ("id", "name"):
        first: dict[Any, Table] = {}
        for topic in _tables(root, "topic"):
            value = topic.get(key)
            if value is not None and first.setdefault(value, topic) is not topic:
                faults.refuse(topic.at(key), value, "each once", f"as {first[value].at(key)} is")


def _rule_clients(root: Table, faults: Faults) -> None:
    first: dict[Any, Table] = {}
    for client in _tables(root, "client"):
        key_id, key = client.get("id"), client.get("key")
        if key_id is not None and first.setdefault(key_id, client) is not client:
            faults.refuse(client.at("id"), key_id, "each once", f"as {first[key_id].at('id')} is")
        if key is not None and first.setdefault(key, client) is not client:
            faults.add(client.at("key"), f"is that of {first[key].path}, too; allowed: a key of its own")


def _rule_members(root: Table, faults: Faults) -> None:
    foreign = {port for topic in _saying(root, "ports") for port in _sound(topic, "ports")}
    own = _own_endpoints(root.get("broker"), foreign)
    listen = _sound(root.get("broker"), "listen")
    judged: set[int] = set()
    for topic in _tables(root, "topic"):
        first: dict[tuple[str, int], Table] = {}
        members = _tables(topic, "member")
        if id(members) in judged:
            continue  # the same of thousands of topics, as they were read
        judged.add(id(members))
        for member in members:
            ip, port, source = member.get("ip"), member.get("port"), member.get("source")
            if source is not None and listen and not {source, kinds.ANY_ADDRESS} & set(listen):
                wanted = f"one of {root.get('broker').at('listen')}, which are {', '.join(listen)}"
                faults.refuse(member.at("source"), source, wanted)
            if ip is None or port is None:
                continue
            if first.setdefault((ip, port), member) is not member:
                faults.add(
                    member.path,
                    f"is {ip}:{port}, as {first[ip, port].path} is, and would get events twice; "
                    "allowed: each endpoint once in a topic",
                )
            if own(ip, port):
                faults.add(
                    member.path,
                    f"is {ip}:{port}, where the broker itself listens; allowed: an endpoint of a subscriber",
                )


def _rule_sizes(root: Table, faults: Faults) -> None:
    limits = root.get("limits")
    topics, most = list(_tables(root, "topic")), limits.get("topics")
    if most is not None and len(topics) > most:
        has = count(len(topics), "entry", "entries")
        faults.add("topic", f"has {has}; allowed: at most {most} ({limits.at('topics')})")
    for topic in _tables(root, "topic"):
        members = _tables(topic, "member")
        if len(members) < 2:
            # Any limit lets one in.
            continue
        # A member without a group is a group of its own.
        sizes = Counter(member.get("group") or member.path for member in members if "group" in member.values)
        most = limits.get("groups_per_topic")
        if most is not None and len(sizes) > most:
            faults.add(
                topic.at("member"),
                f"makes {count(len(sizes), 'group')}; allowed: at most {most} "
                f"({limits.at('groups_per_topic')}, itself at most {MOST_GROUPS})",
            )
        most = limits.get("members_per_group")
        for group, size in sizes.items():
            if most is not None and size > most:
                faults.add(
                    topic.at("member"),
                    f"puts {count(size, 'member')} into group {show(group)}; "
                    f"allowed: at most {most} ({limits.at('members_per_group')})",
                )


#: Those that judge each topic by itself, and what holds of all.
TOPIC_RULES: tuple[Callable[[Table, Faults], None], ...] = (
    _rule_rates,
    _rule_journal,
    _rule_repair,
    _rule_fleet_topics,
    _rule_foreign,
    rule_pick,
    rule_groups,
    _rule_members,
    _rule_sizes,
)
RULES: tuple[Callable[[Table, Faults], None], ...] = (
    _rule_listen,
    _rule_ports,
    _rule_api,
    _rule_lease,
    _rule_fleet,
    _rule_quality,
    _rule_topics,
    _rule_clients,
    *TOPIC_RULES,
)


def _own_endpoints(broker: Table, foreign: Collection[int]) -> Callable[[str, int], bool]:
    """Whether an endpoint is one of the broker's: a member there would make a loop."""
    listen = _sound(broker, "listen")
    ports = {broker.get("data_port"), broker.get("control_port"), *foreign}

    def own(ip: str, port: int) -> bool:
        everywhere = kinds.ANY_ADDRESS in listen and kinds.is_loopback(ip)
        return port in ports and (everywhere or ip in listen)

    return own


def _sound(table: Table, key: str) -> tuple[Any, ...]:
    """The sound entries of a list of values."""
    return tuple(item for item in table.get(key) or () if item is not None)


def _tables(table: Table, key: str) -> Sequence[Table]:
    """The tables of a list, sound or not."""
    tables: tuple[Table, ...] = table.get(key) or ()
    return tables


def _saying(root: Table, *keys: str) -> Iterator[Table]:
    """The topics that say anything by these keys; of all others what these hold is sound."""
    return (topic for topic in _tables(root, "topic") if topic.says(*keys))


def _build(root: Table) -> BrokerConfig:
    broker = root.get("broker").values
    host, port = broker["api"]
    members: dict[int, tuple[StaticMember, ...]] = {}
    return BrokerConfig(
        topics=tuple(build_topic(topic, members) for topic in _tables(root, "topic")),
        listen=broker["listen"],
        data_port=broker["data_port"],
        control_port=broker["control_port"],
        api_host=host,
        api_port=port,
        fastpath=FastPathConfig(**root.get("fastpath").values),
        limits=Limits(**root.get("limits").values),
        control=ControlConfig(
            **root.get("control").values,
            clients=tuple(ClientConfig(**client.values) for client in _tables(root, "client")),
        ),
        user=broker["user"],
        name=broker["name"],
        api_token=broker["api_token"],
        api_token_file=broker["api_token_file"],
        api_expose=broker["api_expose"],
        adapter=broker["adapter"],
        state=StateConfig(**root.get("state").values),
        quality=QualityConfig(**root.get("quality").values),
        fleet=FleetConfig(**root.get("fleet").values),
    )


def build_topic(table: Table, known: dict[int, tuple[StaticMember, ...]] | None = None) -> TopicConfig:
    """A topic whose values are sound. ``known``: members by the identity of their tables, kept meanwhile."""
    values = table.values
    topic = Topic(
        values["id"], values["name"], values["class"], values["priority"], values["framing"], values["path"],
        values["sources"], values["rate"], values["burst"], values["overflow"], values["fanout"],
        values["unheard"], values["journal"], values["journal_bytes"], retain=values["retain"],
        repair=values["repair"], ports=values["ports"], redeliver=values["redeliver"], pick=values["pick"],
        prefer=values["prefer"],
        groups=tuple(build_group(group) for group in _tables(table, "group")),
    )  # fmt: skip
    tables = _tables(table, "member")
    members = None if known is None else known.get(id(tables))
    if members is None:
        members = tuple(_static_member(**member.values) for member in tables)
        members = _one_member(*members) if len(members) == 1 else members
        if known is not None:
            known[id(tables)] = members
    return TopicConfig(topic, members)


@lru_cache(SHARED)
def _static_member(**values: Any) -> StaticMember:
    """One object wherever the same member is in thousands of topics."""
    return StaticMember(**values)


@lru_cache(SHARED)
def _one_member(member: StaticMember) -> tuple[StaticMember, ...]:
    return (member,)
