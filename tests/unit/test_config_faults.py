"""What a configuration is refused for, one line a fault: the text to read is the text asserted."""

# ruff: noqa: E501 - a row of the table is easier to read than its pieces
from __future__ import annotations

from dataclasses import replace

import pytest

from tempos import ConfigError
from tempos._slots import MOST_GROUPS
from tempos.names import FILTER_RULE, NAME_RULE
from tempos_broker.config import BrokerConfig, parse
from tempos_broker.config.model import FleetConfig
from tempos_broker.config.topics import ANYWHERE, BadTopic, read_topic

TOPIC = '[[topic]]\nid = 1\nname = "a"\n'
MEMBER = '[[topic.member]]\nip = "10.0.0.1"\n'
GROUP_RULE = "text of 1 to 64 printable characters, no white space at the ends"
IP_RULE = 'the IPv4 address of one machine, such as "10.0.0.7"'
LISTEN_RULE = 'an IPv4 address of this machine, or "0.0.0.0" for all of them'
MAC_RULE = 'the MAC address of one machine, such as "40:a6:b7:66:39:ba"'
API_RULE = '"host:port" with an IPv4 address and a port from 1 to 65535, or "off"'
NETWORK_RULE = 'an IPv4 network such as "10.0.0.0/8"'
ID_RULE = "an integer from 1 to 65534 but 255"
KEY_ID_RULE = "1-64 letters, digits and . _ @ -, the first a letter or digit"
SECRET = "000102030405060708090a0b0c0d0e0f"
CLIENT = f'[[client]]\nid = "c"\nkey = "{SECRET}"\n'
OWN_RULE = "an endpoint of a subscriber"

#: (text of the file, the one fault it has)
FLOWS = (
    '[[topic]]\nname = "flows"\nports = [2055]\n[[topic.member]]\nip = "10.0.0.9"\nport = 2055\ngroup = "a"\n'
)
GROUP_AT = "topic[0].group[0]"
FAULTS = [
    # tables and keys
    ("topic = 3", "topic is 3; allowed: a list of tables of at most 65533, each with the keys "
         "id, name, class, priority, framing, path, sources, rate, burst, overflow, fanout, unheard, journal, journal_bytes, retain, repair, redeliver, ports, pick, prefer, group, member, written [[topic]]"),
    ("broker = 3\n" + TOPIC, "broker is 3; allowed: a table with the keys listen, data_port, control_port, api, user, "
     "name, api_token, api_token_file, api_expose, adapter"),
    ("[limts]\n" + TOPIC, 'limts is an unknown key (did you mean "limits"?); '
                          "allowed: broker, state, fastpath, quality, limits, control, fleet, client, topic"),
    (TOPIC + "Priority = 1", 'topic[0].Priority is an unknown key (did you mean "priority"?); '
                             "allowed: id, name, class, priority, framing, path, sources, rate, burst, overflow, fanout, unheard, journal, journal_bytes, retain, repair, redeliver, ports, pick, prefer, group, member"),
    (TOPIC + '"a\\nb" = 1', 'topic[0]."a\\nb" is an unknown key; '
                            "allowed: id, name, class, priority, framing, path, sources, rate, burst, overflow, fanout, unheard, journal, journal_bytes, retain, repair, redeliver, ports, pick, prefer, group, member"),
    (TOPIC + '[topic.member]\nip = "10.0.0.1"', "topic[0].member is a table; allowed: a list of tables, "
                                                "each with the keys ip, port, group, mac, source, weight, written [[topic.member]]"),
    (TOPIC + "member = [7]", "topic[0].member[0] is 7; allowed: a table with the keys ip, port, group, mac, source, weight"),
    # topics
    ('[[topic]]\nname = "a"', f"topic[0].id is missing; allowed: {ID_RULE}"),
    ("[[topic]]\nid = 9", f"topic[0].name is missing; allowed: {NAME_RULE}"),
    ('[[topic]]\nid = 0\nname = "a"', f"topic[0].id is 0; allowed: {ID_RULE}"),
    ('[[topic]]\nid = 255\nname = "a"', f"topic[0].id is 255; allowed: {ID_RULE}"),
    ('[[topic]]\nid = true\nname = "a"', f"topic[0].id is true; allowed: {ID_RULE}"),
    ('[[topic]]\nid = 1.0\nname = "a"', f"topic[0].id is 1.0; allowed: {ID_RULE}"),
    (f'[[topic]]\nid = 0x{"f" * 9000}\nname = "a"', f"topic[0].id is an integer of 36000 bits; allowed: {ID_RULE}"),
    ('[[topic]]\nid = 1\nname = ""', f'topic[0].name is ""; allowed: {NAME_RULE}'),
    ('[[topic]]\nid = 1\nname = " a"',
     f'topic[0].name is " a", which has white space at an end; allowed: {NAME_RULE}'),
    ('[[topic]]\nid = 1\nname = "a\\u001b[2J"',
     f'topic[0].name is "a\\u001b[2J", which has characters that cannot be printed; allowed: {NAME_RULE}'),
    (f'[[topic]]\nid = 1\nname = "{"n" * 257}"',
     f'topic[0].name is "{"n" * 56}..., which takes 257 bytes; allowed: {NAME_RULE}'),
    ('[[topic]]\nid = 1\nname = "plant/+"',
     f'topic[0].name is "plant/+", which has "+" or "#" in it: they stand for levels in filters; allowed: {NAME_RULE}'),
    (TOPIC + "priority = 8", "topic[0].priority is 8; allowed: an integer from 0 to 7"),
    (TOPIC + "priority = true", "topic[0].priority is true; allowed: an integer from 0 to 7"),
    (TOPIC + 'class = "sq"', 'topic[0].class is "sq", did you mean "SQ"?; allowed: "SQ" or "BQ"'),
    (TOPIC + "class = 1979-05-27", 'topic[0].class is 1979-05-27; allowed: "SQ" or "BQ"'),
    (TOPIC + 'framing = "evnt"', 'topic[0].framing is "evnt", did you mean "event"?; allowed: "raw" or "event" or "foreign"'),
    (TOPIC + 'path = "native"', 'topic[0].path is "native"; allowed: "auto" or "fast" or "slow"'),
    (TOPIC + '[[topic]]\nid = 1\nname = "b"', "topic[1].id is 1, as topic[0].id is; allowed: each once"),
    (TOPIC + '[[topic]]\nid = 2\nname = "a"', 'topic[1].name is "a", as topic[0].name is; allowed: each once'),
    # the fleet
    (TOPIC + "[fleet]\nzone = \"z\"", "fleet.zone is set, but there is no fleet; allowed: a fleet.name besides"),
    (TOPIC + '[fleet]\nname = "f"\naddress = "10.0.0.1"', "fleet.etcd is empty; allowed: the URLs of its members, at least one"),
    (TOPIC + '[fleet]\nname = "f"\netcd = ["http://e:2379"]',
     "fleet.address is not set, and broker.listen is every address; allowed: the one that members know this broker by"),
    (TOPIC + '[broker]\nlisten = ["10.0.0.1"]\n[fleet]\nname = "f"\netcd = ["http://e:2379"]\naddress = "10.0.0.2"',
     'fleet.address is "10.0.0.2"; allowed: one of broker.listen, which are 10.0.0.1'),
    (TOPIC + '[fleet]\nname = "f"\netcd = ["http://e:2379"]\naddress = "10.0.0.2"\nuser = "u"',
     "fleet.user is set; allowed: with fleet.password besides"),
    # members
    (TOPIC + "[[topic.member]]\nport = 1", f"topic[0].member[0].ip is missing; allowed: {IP_RULE}"),
    *[(f'{TOPIC}[[topic.member]]\nip = "{ip}"', f'topic[0].member[0].ip is "{ip}"; allowed: {IP_RULE}')
      for ip in ("10.0.0.300", "10.0.0.01", "::1", "host", "")],
    *[(f'{TOPIC}[[topic.member]]\nip = "{ip}"',
       f'topic[0].member[0].ip is "{ip}", which is no address of one machine; allowed: {IP_RULE}')
      for ip in ("0.0.0.0", "224.0.0.1", "255.255.255.255")],
    *[(f"{TOPIC}{MEMBER}port = {port}",
       f"topic[0].member[0].port is {port}; allowed: an integer from 1 to 65535")
      for port in ("0", "65536", "-1", "false", "nan", "inf")],
    (TOPIC + MEMBER + 'group = "~10.0.0.1:1"', 'topic[0].member[0].group is "~10.0.0.1:1"; '
     f'allowed: {GROUP_RULE}, not beginning with "~" (names the broker gives)'),
    (TOPIC + MEMBER + 'source = "224.0.0.1"', 'topic[0].member[0].source is "224.0.0.1", which is no address of '
     f"one machine; allowed: {IP_RULE}"),
    ('[broker]\nlisten = ["10.0.0.7", "10.0.1.7"]\n' + TOPIC + MEMBER + 'source = "10.0.0.8"',
     'topic[0].member[0].source is "10.0.0.8"; allowed: one of broker.listen, which are 10.0.0.7, 10.0.1.7'),
    (TOPIC + MEMBER + 'mac = "40:a6:b7:66:39"', f'topic[0].member[0].mac is "40:a6:b7:66:39"; allowed: {MAC_RULE}'),
    (TOPIC + MEMBER + 'mac = "00:00:00:00:00:00"',
     f'topic[0].member[0].mac is "00:00:00:00:00:00", which is no address; allowed: {MAC_RULE}'),
    (TOPIC + MEMBER + 'mac = "01:00:5e:00:00:01"', 'topic[0].member[0].mac is "01:00:5e:00:00:01", '
     f"which is a group's address, not one machine's; allowed: {MAC_RULE}"),
    (TOPIC + MEMBER + 'group = "x"\n' + MEMBER + 'group = "x"',
     "topic[0].member[1] is 10.0.0.1:9998, as topic[0].member[0] is, and would get events twice; "
     "allowed: each endpoint once in a topic"),
    (TOPIC + MEMBER + 'group = "x"\n' + MEMBER + "port = 9998",
     "topic[0].member[1] is 10.0.0.1:9998, as topic[0].member[0] is, and would get events twice; "
     "allowed: each endpoint once in a topic"),
    ('[broker]\nlisten = ["10.0.0.1"]\n' + TOPIC + MEMBER,
     f"topic[0].member[0] is 10.0.0.1:9998, where the broker itself listens; allowed: {OWN_RULE}"),
    (TOPIC + '[[topic.member]]\nip = "127.0.0.9"\nport = 9997',
     f"topic[0].member[0] is 127.0.0.9:9997, where the broker itself listens; allowed: {OWN_RULE}"),
    ("[limits]\nmembers_per_group = 1\n" + TOPIC + MEMBER + 'group = "x"\n' + MEMBER + 'port = 5\ngroup = "x"',
     'topic[0].member puts 2 members into group "x"; allowed: at most 1 (limits.members_per_group)'),
    ("[limits]\ngroups_per_topic = 2\n" + TOPIC + MEMBER + 'group = "x"\n' + MEMBER + "port = 5\n" + MEMBER + "port = 6",
     f"topic[0].member makes 3 groups; allowed: at most 2 (limits.groups_per_topic, itself at most {MOST_GROUPS})"),
    # broker
    ("[broker]\nlisten = []\n" + TOPIC, f"broker.listen has 0 entries; allowed: a list of 1 to 8, each {LISTEN_RULE}"),
    ('[broker]\nlisten = "10.0.0.1"\n' + TOPIC,
     f'broker.listen is "10.0.0.1"; allowed: a list of 1 to 8, each {LISTEN_RULE}'),
    ('[broker]\nlisten = ["10.0.0.1", "10.0.0.1"]\n' + TOPIC,
     'broker.listen[1] is "10.0.0.1", as broker.listen[0] is; allowed: each once'),
    ('[broker]\nlisten = ["10.0.0.1", "0.0.0.0"]\n' + TOPIC,
     'broker.listen has "0.0.0.0" beside other addresses; allowed: "0.0.0.0" alone'),
    (f"[broker]\nlisten = {[f'10.0.0.{n}' for n in range(9)]}\n{TOPIC}",
     f"broker.listen has 9 entries; allowed: a list of 1 to 8, each {LISTEN_RULE}"),
    ('[broker]\nlisten = ["224.0.0.1"]\n' + TOPIC,
     f'broker.listen[0] is "224.0.0.1", which is no address of one machine; allowed: {LISTEN_RULE}'),
    ("[broker]\ndata_port = 9997\n" + TOPIC,
     "broker.control_port has port 9997, as broker.data_port has; allowed: a port of its own"),
    ('[broker]\napi = "127.0.0.1:9998"\n' + TOPIC,
     "broker.api has port 9998, as broker.data_port has; allowed: a port of its own"),
    *[(f'[broker]\napi = "{api}"\n{TOPIC}', f'broker.api is "{api}"; allowed: {API_RULE}')
      for api in ("on", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", ":9996", "127.0.0.1:+5", "[::1]:9996")],
    # fast path, limits, control
    ('[fastpath]\nmode = "nativ"\n' + TOPIC, 'fastpath.mode is "nativ", did you mean "native"?; '
                                             'allowed: "auto" or "native" or "generic" or "off"'),
    ('[fastpath]\non_stop = "kepp"\n' + TOPIC, 'fastpath.on_stop is "kepp", did you mean "keep"?; '
                                              'allowed: "keep" or "withdraw"'),
    *[(f'[fastpath]\ninterfaces = ["{interface}"]\n{TOPIC}',
       f'fastpath.interfaces[0] is "{interface}"; allowed: the name of a network interface, such as "eth0"')
      for interface in ("", "a/b", "a b", "..", "sixteen-letters!")],
    ("[limits]\ngroups_per_topic = 4097\n" + TOPIC, "limits.groups_per_topic is 4097; allowed: an integer from 1 to 4096"),
    ("[limits]\ndatagram = 23\n" + TOPIC, "limits.datagram is 23; allowed: an integer from 24 to 65507"),
    ("[control]\nlease = 2\n" + TOPIC, "control.heartbeat is 2.5; allowed: less than control.lease, which is 2.0"),
    ("[control]\nlease = nan\n" + TOPIC, "control.lease is nan; allowed: a number of seconds from 0.05 to 3600"),
    ("[control]\nlease = true\n" + TOPIC, "control.lease is true; allowed: a number of seconds from 0.05 to 3600"),
    ('[control]\nnetworks = ["10.0.0.1/8"]\n' + TOPIC,
     'control.networks[0] is "10.0.0.1/8", which has host bits set (did you mean "10.0.0.0/8"?); '
     f"allowed: {NETWORK_RULE}"),
    *[(f'[control]\nnetworks = ["{network}"]\n{TOPIC}', f'control.networks[0] is "{network}"; allowed: {NETWORK_RULE}')
      for network in ("10.0.0.0/33", "", "fe80::/10")],
    ("[control]\nrate = 0\n" + TOPIC, "control.rate is 0; allowed: an integer from 1 to 1000000"),
    (TOPIC + "sources = [" + ", ".join(f'"10.0.{n}.0/24"' for n in range(9)) + "]",
     f"topic[0].sources has 9 entries; allowed: a list of at most 8, each {NETWORK_RULE}"),
    # the API
    ('[broker]\napi = "10.0.0.1:80"\napi_expose = true\n' + TOPIC,
     "broker.api is 10.0.0.1:80, which others can reach, without a token; allowed: a loopback address, or "
     "broker.api_token or broker.api_token_file besides"),
    (f'[broker]\napi = "10.0.0.1:80"\napi_token = "{SECRET}"\n{TOPIC}',
     "broker.api is 10.0.0.1:80, which others can reach; allowed: a loopback address, or "
     "broker.api_expose = true besides"),
    ('[broker]\napi_token = "secret words"\n' + TOPIC, "broker.api_token is not what it must be (not shown: a "
     'secret); allowed: 16 to 256 printable ASCII characters without space, "" for none'),
    (f'[broker]\napi_token = "{SECRET}"\napi_token_file = "/x"\n{TOPIC}',
     "broker.api_token_file stands beside broker.api_token; allowed: one of them"),
    ('[broker]\napi_expose = 1\n' + TOPIC, "broker.api_expose is 1; allowed: true or false"),
    ('[broker]\nadapter = "a b"\n' + TOPIC,
     'broker.adapter is "a b"; allowed: the name of an adapter that is installed, such as "udp"'),
    ('[broker]\nname = "a/b"\n' + TOPIC, 'broker.name is "a/b"; allowed: 1 to 32 letters, digits, "-" and "_", '
     "the first a letter or digit"),
    ("[state]\nfile = false\n" + TOPIC, 'state.file is false; allowed: the path of a file, "" for the usual one, '
     'or "off"'),
    # quality, and the limits of topics
    ('[quality]\nsockets = "epbf"\n' + TOPIC, 'quality.sockets is "epbf", did you mean "ebpf"?; '
                                             'allowed: "auto" or "ebpf" or "classic" or "one"'),
    ("[quality]\nshare_bq = 51\n" + TOPIC, "quality.share_bq is 51; allowed: an integer from 0 to 50 (percent)"),
    ("[quality]\npriority_sq = 100\n" + TOPIC,
     "quality.priority_sq is 100; allowed: an integer from 0 to 99 (0: ordinary scheduling)"),
    ("[quality]\ndscp_sq = 64\n" + TOPIC, "quality.dscp_sq is 64; allowed: an integer from 0 to 63"),
    ("[quality]\nso_priority_bq = 16\n" + TOPIC, "quality.so_priority_bq is 16; allowed: an integer from 0 to 15"),
    *[(f"[quality]\ncpus_bq = [{cpu}]\n{TOPIC}",
       f"quality.cpus_bq[0] is {cpu}; allowed: an integer from 0 to 8191 (the number of a CPU)")
      for cpu in ("-1", "8192", "true", '"0"')],
    ("[quality]\ncpus_bq = [1, 1]\n" + TOPIC, "quality.cpus_bq[1] is 1, as quality.cpus_bq[0] is; allowed: each once"),
    ("[quality]\ncpus_sq = [1]\n" + TOPIC, "quality.cpus_sq is set, but there is no SQ worker; "
                                          "allowed: quality.worker_sq = true besides"),
    ('[quality]\nworker_sq = true\nsockets = "one"\n' + TOPIC, 'quality.worker_sq is true, but quality.sockets is "one"; '
     "allowed: a socket for each class"),
    (TOPIC + "rate = -1", "topic[0].rate is -1; allowed: an integer from 0 to 100000000 (0: no limit)"),
    (TOPIC + "burst = 5", "topic[0].burst is 5, without a rate; allowed: a topic[0].rate above 0 besides"),
    (TOPIC + 'overflow = "pass"',
     'topic[0].overflow is "pass", without a rate; allowed: a topic[0].rate above 0 besides'),
    (TOPIC + 'rate = 5\noverflow = "queue"', 'topic[0].overflow is "queue"; allowed: "drop" or "pass"'),
    # clients
    (FLOWS + '[[topic.group]]\nname = "a"\nevery = 0', f"{GROUP_AT}.every is 0; allowed: an integer from 1 to 1000000"),
    (FLOWS + '[[topic.group]]\nname = "b"', f'{GROUP_AT}.name is "b"; allowed: the group of a topic[0].member'),
    (FLOWS + '[[topic.group]]\nname = "a"\n[[topic.group]]\nname = "a"',
     f'topic[0].group[1].name is "a", as {GROUP_AT}.name is; allowed: each once'),
    (TOPIC + '[[topic.member]]\nip = "10.0.0.9"\ngroup = "a"\n[[topic.group]]\nname = "a"',
     'topic[0].group stands at a topic that is not foreign; allowed: none, or topic[0].framing = "foreign" besides'),
    (f'{TOPIC}[[client]]\nkey = "{SECRET}"', f"client[0].id is missing; allowed: {KEY_ID_RULE}"),
    (f'{TOPIC}[[client]]\nid = "a b"\nkey = "{SECRET}"', f'client[0].id is "a b"; allowed: {KEY_ID_RULE}'),
    *[(f'{TOPIC}[[client]]\nid = "c"\nkey = "{key}"', "client[0].key is not what it must be (not shown: a secret); "
       "allowed: 32 to 128 hex digits, such as `openssl rand -hex 32` gives")
      for key in ("", SECRET[2:], SECRET[1:], "secret words", SECRET * 5)],
    (f'{TOPIC}{CLIENT}[[client]]\nid = "c"\nkey = "{SECRET[::-1]}"',
     'client[1].id is "c", as client[0].id is; allowed: each once'),
    (f'{TOPIC}{CLIENT}[[client]]\nid = "d"\nkey = "{SECRET}"',
     "client[1].key is that of client[0], too; allowed: a key of its own"),
    (TOPIC + CLIENT + 'publish = ["a", "*", "a/+/#"]\nsubscribe = ["a", "b#"]',
     'client[0].subscribe[1] is "b#", which has "#" beside other characters in a level; allowed: '
     f'a topic\'s name, "*" for every topic, or a filter: {FILTER_RULE}'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), FAULTS, ids=[fault[:60] for _, fault in FAULTS])
def test_each_fault_is_told_once_with_path_value_and_what_is_allowed(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text, "x.toml")
    assert refused.value.problems == [f"x.toml: {fault}"]


def test_all_faults_of_a_file_come_at_once_and_one_fault_causes_no_other() -> None:
    text = """
        [broker]
        data_port = 0            # no conflict with the default of another port follows from this
        listen = ["10.0.0.1", "nowhere"]
        [limits]
        members_per_group = 0    # so nothing is said of the size of groups
        [[topic]]
        id = 70000
        name = "a"
        [[topic.member]]
        ip = "nowhere"
        port = 9997
        [[topic]]
        id = 4
        name = "a"
        class = "XQ"
        [[topic.member]]
        ip = "10.0.0.1"
        port = 9997
    """
    with pytest.raises(ConfigError) as refused:
        parse(text, "x.toml")
    assert [problem.split()[1] for problem in refused.value.problems] == [
        "broker.data_port",
        "broker.listen[1]",
        "limits.members_per_group",
        "topic[0].id",
        "topic[0].member[0].ip",
        "topic[1].class",
        "topic[1].name",
        "topic[1].member[0]",
    ]
    assert str(refused.value) == "\n".join(refused.value.problems)


def test_a_port_of_the_api_clashes_only_where_it_shares_an_address() -> None:
    assert parse('[broker]\nlisten = ["10.0.0.1"]\napi = "127.0.0.1:9998"\n' + TOPIC).api_port == 9998
    with pytest.raises(ConfigError):
        parse('[broker]\nlisten = ["10.0.0.1"]\napi = "0.0.0.0:9998"\n' + TOPIC)


def test_spellings_come_out_canonical() -> None:
    config = parse(
        '[broker]\napi = "localhost:80"\n[control]\nlease = 3\nnetworks = ["10.1.2.3"]\n'
        f'{TOPIC}[[topic.member]]\nip = "10.0.0.1"\nmac = "2:A:0:0:0:F"\n'
    )
    assert (config.api_host, config.api_port) == ("127.0.0.1", 80)
    assert isinstance(config.control.lease, float)
    assert config.control.networks == ("10.1.2.3/32",)
    assert config.topics[0].members[0].mac == "02:0a:00:00:00:0f"


def test_what_is_left_out_is_the_default() -> None:
    config = parse(TOPIC)
    assert config == BrokerConfig(topics=config.topics)
    assert parse('[broker]\napi = "off"\n' + TOPIC).api_port == 0


def test_a_work_queue_is_refused_in_a_fleet_however_it_is_asked_for() -> None:
    fleet = replace(ANYWHERE, fleet=FleetConfig(name="f", etcd=("http://e:2379",)))
    asked = {"id": 7, "name": "jobs", "journal": 8, "redeliver": True}
    read_topic(asked, ANYWHERE)
    with pytest.raises(BadTopic) as refused:
        read_topic(asked, fleet)
    (fault,) = refused.value.problems
    assert fault == "topic: redeliver is true, in a fleet, which does not do that yet; allowed: false"
