"""What other programs were told comes out as topics that do the same, and what does not is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tempos import Pick
from tempos.cli.main import main
from tempos_broker.config import BrokerConfig, parse
from tempos_broker.director import nginx, pmacct, samplicator
from tempos_broker.director.found import Found, Unreadable, document


def taken_over(found: Found) -> BrokerConfig:
    return parse(document(found, "its file"))


def groups(config: BrokerConfig, topic: int = 0) -> dict[str, tuple[list[str], tuple[str, ...], int, bool]]:
    """By name: collectors, whose datagrams, one of how many, whether the sender's address is kept."""
    entry = config.topics[topic]
    options = {group.name: (group.sources, group.every, group.keep) for group in entry.topic.groups}
    found: dict[str, tuple[list[str], tuple[str, ...], int, bool]] = {}
    for member in entry.members:
        assert member.group is not None
        sources, every, keep = options.get(member.group, ((), 1, False))
        collectors = found.setdefault(member.group, ([], tuple(map(str, sources)), every, keep))[0]
        collectors.append(f"{member.ip}:{member.port}" + (f"*{member.weight}" if member.weight > 1 else ""))
    return found


def test_lines_of_samplicator_are_groups_by_their_senders(tmp_path: Path) -> None:
    file = tmp_path / "samplicator.conf"
    file.write_text(
        "# by mask, by prefix, by one address\n"
        "10.1.0.0/255.255.0.0: 10.0.2.11/2055 10.0.2.12/9000-9001/10\n"
        "10.2.0.0/16: 10.0.2.11/2055   # as above\n"
        "10.2.7.9: 10.0.2.13 10.0.2.14/7000+2\n"
        "0.0.0.0/0: 10.0.2.15/2055/5,3\n"
        "[2001:db8::]/32: [2001:db8::1]/2055\n"
        "10.3.0.0/255.0.255.0: 10.0.2.11\n"
        "10.4.0.0/16: 10.0.2.16/none 10.0.2.17/2055/0 10.0.2.18/9-8\n"
        "no line\n"
    )
    found = samplicator.read(file, (2055,), ["10.0.2.20/9995/100"], keep=False)
    (topic,) = taken_over(found).topics
    assert (topic.topic.name, topic.topic.ports, topic.topic.pick) == ("netflow", (2055,), Pick.TURN)
    assert groups(taken_over(found)) == {
        "10.0.2.20-9995": (["10.0.2.20:9995"], (), 100, False),
        "10.0.2.11-2055": (["10.0.2.11:2055"], ("10.1.0.0/16", "10.2.0.0/16"), 1, False),
        "10.0.2.12-9000": (["10.0.2.12:9000"], ("10.1.0.0/16",), 10, False),
        "10.0.2.12-9001": (["10.0.2.12:9001"], ("10.1.0.0/16",), 10, False),
        "10.0.2.13-2000": (["10.0.2.13:2000"], ("10.2.7.9/32",), 1, False),
        "10.0.2.14-7000": (["10.0.2.14:7000"], ("10.2.7.9/32",), 1, False),
        "10.0.2.14-7001": (["10.0.2.14:7001"], ("10.2.7.9/32",), 1, False),
        "10.0.2.15-2055": (["10.0.2.15:2055"], (), 5, False),
    }
    lines = [int(each.removeprefix(f"{file}:").partition(":")[0]) for each in found.left_out]
    assert lines == [5, 6, 7, 8, 8, 8, 9], found.left_out
    assert found.remarks == []


def test_what_two_lines_of_samplicator_send_twice_is_sent_once_and_told(tmp_path: Path) -> None:
    file = tmp_path / "samplicator.conf"
    file.write_text("10.0.0.0/8: 10.0.2.11\n10.1.0.0/16: 10.0.2.11\n10.2.0.0/16: 10.0.2.11/2000/7\n")
    found = samplicator.read(file, (), [], keep=True)
    assert groups(taken_over(found)) == {
        "10.0.2.11-2000": (["10.0.2.11:2000"], ("10.0.0.0/8",), 1, True),
    }
    assert found.left_out == [f"{file}:3: 10.0.2.11-2000-2: 10.0.2.11-2000 again, beside 10.0.2.11-2000"]
    default, twice = found.remarks
    assert "2000" in default
    assert "10.0.2.11-2000" in twice


NGINX = """
events {}
http { server { listen 80; } }
stream {
  upstream flows {
    hash $remote_addr consistent;
    server 10.0.2.11:2055 weight=2 max_fails=3; server 10.0.2.12:2055;
    server 10.0.2.13:2055 down;
    server 10.0.2.14:2055 backup;
  }
  upstream chunks { hash "$remote_addr:$remote_port"; server 10.0.2.15:12201; server 10.0.2.16:12201; }
  upstream logs { least_conn; server 10.0.2.20:514 weight=2; server 10.0.2.21:514; }
  server { listen 2055 udp reuseport; listen *:9995 udp; proxy_pass flows; proxy_responses 0;
           proxy_bind $remote_addr transparent; }
  include more/*.conf;
  server { listen 443; proxy_pass 10.0.2.40:443; }
  server { listen [::]:162 udp; proxy_pass logs; }
  server { listen 53 udp; proxy_pass $chosen; }
}
"""
MORE = """
server { listen 514 udp; proxy_pass logs; proxy_responses 0; allow 10.1.0.0/16; allow 10.2.7.9; deny all; }
server { listen 12201 udp; proxy_pass chunks; proxy_responses 0; deny 10.1.0.1; allow all; }
server { listen 10.0.1.1:8125-8126 udp; proxy_pass 10.0.2.30:8125; }
"""


def test_servers_of_nginx_that_listen_for_datagrams_are_topics(tmp_path: Path) -> None:
    pytest.importorskip("crossplane")
    file = tmp_path / "nginx.conf"
    file.write_text(NGINX)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.conf").write_text(MORE)
    found = nginx.read(file, (), keep=False)
    config = taken_over(found)
    told = [(each.topic.name, each.topic.ports, each.topic.pick.value) for each in config.topics]
    assert told == [
        ("netflow", (2055, 9995), "source"),
        ("syslog", (514,), "turn"),
        ("gelf", (12201,), "source-port"),
        ("statsd", (8125, 8126), "turn"),
    ]
    assert groups(config) == {"flows": (["10.0.2.11:2055*2", "10.0.2.12:2055"], (), 1, True)}
    assert groups(config, 1) == {"logs": (["10.0.2.20:514", "10.0.2.21:514"], (), 1, False)}
    assert [str(each) for each in config.topics[1].topic.sources] == ["10.1.0.0/16", "10.2.7.9/32"]
    assert groups(config, 3) == {"10.0.2.30-8125": (["10.0.2.30:8125"], (), 1, False)}
    for said in ("backup", "least_conn", "weights", "allow and deny", "10.0.1.1", "[::]:162", "$chosen"):
        assert any(said in each for each in found.left_out), (said, found.left_out)
    assert len(found.left_out) == 7, found.left_out
    assert len(found.remarks) == 2, "answers of the two that do not say how many they wait for"
    (only,) = taken_over(nginx.read(file, (514,), keep=True)).topics
    assert (only.topic.name, [group.keep for group in only.topic.groups]) == ("syslog", [True])


def test_what_a_broker_would_refuse_is_left_out_and_the_rest_taken_over(tmp_path: Path) -> None:
    pytest.importorskip("crossplane")
    file = tmp_path / "nginx.conf"
    many = "".join(f"server 10.0.3.{each}:514;" for each in range(1, 51))
    file.write_text(
        "stream {\n"
        "  server { listen 10.0.1.1:514 udp; proxy_pass 10.0.2.1:514; proxy_responses 0; }\n"
        "  server { listen 10.0.1.2:514 udp; proxy_pass 10.0.2.2:514; proxy_responses 0; }\n"
        "  server { listen 9998 udp; listen 162 udp; proxy_pass 10.0.2.3:162; proxy_responses 0; }\n"
        "  server { listen 8125 udp; proxy_pass 224.0.0.1:8125; proxy_responses 0; }\n"
        f"  upstream many {{ hash $remote_addr; {many} }}\n"
        "  upstream heavy { hash $remote_addr; server 10.0.4.1:1 weight=70; server 10.0.4.2:1 weight=140; }\n"
        "  upstream light { hash $remote_addr; server 10.0.5.1:1 weight=500; server 10.0.5.2:1; }\n"
        "  server { listen 6343 udp; proxy_pass many; proxy_responses 0; }\n"
        "  server { listen 2055 udp; proxy_pass heavy; proxy_responses 0; }\n"
        "  server { listen 4739 udp; proxy_pass light; proxy_responses 0; }\n"
        "}\n"
    )
    found = nginx.read(file, (), keep=False)
    config = taken_over(found)
    told = [(each.topic.name, each.topic.ports, len(each.members)) for each in config.topics]
    assert told == [
        ("syslog", (514,), 1),
        ("snmp-traps", (162,), 1),
        ("sflow", (6343,), 48),
        ("netflow", (2055,), 2),
        ("ipfix", (4739,), 2),
    ]
    assert groups(config, 3) == {"heavy": (["10.0.4.1:1", "10.0.4.2:1*2"], (), 1, False)}
    assert groups(config, 4) == {"light": (["10.0.5.1:1*16", "10.0.5.2:1"], (), 1, False)}
    for line, said in (
        (3, "names 514, as syslog.ports does"),
        (4, "port 9998: ports names 9998, as broker.data_port"),
        (5, '224.0.0.1:8125: ip is "224.0.0.1", which is no address of one machine'),
        (6, "10.0.3.49:514: member makes 49 members"),
        (6, "10.0.3.50:514: member makes 49 members"),
        (8, "weights: as near as members come to it"),
    ):
        assert any(each.startswith(f"{file}:{line}: ") and said in each for each in found.left_out), said


def test_of_a_name_in_nginx_all_addresses_are_collectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("crossplane")
    known = [(2, 2, 17, "", (address, 0)) for address in ("10.0.2.1", "10.0.2.2", "10.0.2.1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: known)
    file = tmp_path / "nginx.conf"
    file.write_text(
        "stream { upstream flows { server flows.lan:2055; server 10.0.3.1:2055; }\n"
        "server { listen 2055 udp; proxy_pass flows; }\n"
        "server { listen 514 udp; proxy_pass logs.lan:1; } }\n"
    )
    config = taken_over(nginx.read(file, (), keep=False))
    assert groups(config) == {"flows": (["10.0.2.1:2055", "10.0.2.2:2055", "10.0.3.1:2055"], (), 1, False)}
    assert groups(config, 1) == {"logs.lan:1": (["10.0.2.1:1", "10.0.2.2:1"], (), 1, False)}


def test_each_receiver_that_two_lines_name_is_told_and_each_reason_once(tmp_path: Path) -> None:
    file = tmp_path / "samplicator.conf"
    file.write_text("10.0.0.0/8: 10.0.2.11 10.0.2.12\n10.1.0.0/16: 10.0.2.11 10.0.2.12\n")
    found = samplicator.read(file, (2055,), [], keep=False)
    assert [each.split()[0] for each in found.remarks] == ["10.0.2.11-2000", "10.0.2.12-2000"]
    found.left_out += ["map:3: no", "map:3: no"]
    document(found, "its file")
    assert found.left_out == ["map:3: no"]


def test_pools_of_pmacct_are_groups_by_the_senders_of_their_tags(tmp_path: Path) -> None:
    (tmp_path / "tee.lst").write_text(
        "! pools\n"
        "id=1 ip=10.0.2.11:2055\n"
        "id=2 ip=10.0.2.12:2055,10.0.2.13:2055 balance-alg=hash-agent\n"
        "id=3 ip=10.0.2.14:2055,10.0.2.15:2055 tag=100,205-210 src_port=7\n"
        "id=4 ip=10.0.2.16:2055 tag=-100\n"
        "id=5 ip=10.0.2.17:2055 tag=400\n"
        "id=6 ip=10.0.2.18:2055 tag=500\n"
        "id=7 kafka_broker=localhost:9092 kafka_topic=flows\n"
        "id=8 ip=[::1]:2055\n"
        "id=9 ip=10.0.2.19\n"
        "id=10 ip=10.0.2.20:2055,10.0.2.21:2055 balance-alg=rr\n"
    )
    (tmp_path / "tags.map").write_text(
        "set_tag=100 ip=10.1.0.0/16\n"
        "set_tag=205 ip=10.2.7.9\n"
        "set_tag=300 src_port=53\n"
        "set_tag=500 ip=10.5.1.0/24\n"
        "set_tag=400 ip=10.5.0.0/16\n"
    )
    file = tmp_path / "nfacctd.conf"
    file.write_text(
        "nfacctd_port: 2055\nnfacctd_ip: 10.0.1.1\nplugins: tee[a], print[b]\n"
        "tee_receivers[a]: /elsewhere/tee.lst\ntee_transparent: true\npre_tag_map: /elsewhere/tags.map\n"
    )
    found = pmacct.read(file, (), keep=False)
    config = taken_over(found)
    assert (config.topics[0].topic.ports, config.topics[0].topic.pick) == ((2055,), Pick.SOURCE)
    tagged = ("10.1.0.0/16", "10.2.7.9/32")
    assert groups(config) == {
        "a-pool-1": (["10.0.2.11:2055"], (), 1, True),
        "a-pool-2": (["10.0.2.12:2055", "10.0.2.13:2055"], (), 1, True),
        "a-pool-3-10.0.2.14-2055": (["10.0.2.14:2055"], tagged, 1, True),
        "a-pool-3-10.0.2.15-2055": (["10.0.2.15:2055"], tagged, 1, True),
        "a-pool-6": (["10.0.2.18:2055"], ("10.5.1.0/24",), 1, True),
        "a-pool-10": (["10.0.2.20:2055", "10.0.2.21:2055"], (), 1, True),
    }
    for said in ("nfacctd_ip", "tags.map:3", "src_port", "tag=-100", "tag=400", "kafka", "[::1]", "no port"):
        assert any(said in each for each in found.left_out), (said, found.left_out)
    assert len(found.left_out) == 8, found.left_out
    assert len(found.remarks) == 1, "turns and senders beside each other"


def test_what_cannot_be_taken_over_at_all_is_told(tmp_path: Path) -> None:
    for text in ("daemonize: true\nplugins: print\n", "nfacctd_port: many\nplugins: tee\n"):
        (tmp_path / "nfacctd.conf").write_text(text)
        with pytest.raises(Unreadable, match=r"nfacctd\.conf"):
            pmacct.read(tmp_path / "nfacctd.conf", (), keep=False)
    (tmp_path / "nfacctd.conf").write_text("plugins: tee\ntee_receivers: gone.lst\n")
    with pytest.raises(Unreadable, match=r"gone\.lst: cannot be read"):
        pmacct.read(tmp_path / "nfacctd.conf", (), keep=False)
    with pytest.raises(Unreadable, match="nothing in it"):
        document(Found(), "its file")
    with pytest.raises(Unreadable, match=r"nothing in it .*\n.*line: 255\.255\.255\.255:2055: ip is"):
        document(samplicator.read(None, (2055,), ["255.255.255.255/2055"], keep=False), "its file")
    pytest.importorskip("crossplane")
    (tmp_path / "nginx.conf").write_text("stream { }\nworker_processes 4\n")
    with pytest.raises(Unreadable, match="it ends amid a directive"):
        nginx.read(tmp_path / "nginx.conf", (), keep=False)
    (tmp_path / "nginx.conf").write_text("stream { server { listen 53 udp;\n")
    with pytest.raises(Unreadable, match=r"nginx\.conf"):
        nginx.read(tmp_path / "nginx.conf", (), keep=False)


def test_the_command_tells_whose_file_it_is_and_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "copies.conf", tmp_path / "topics.toml"
    file.write_text("10.1.0.0/16: 10.0.2.11/2055\n")
    assert main(["director", "import", str(file), "--ports", "2055,9995", "-o", str(out)]) == 0
    assert parse(out.read_text()).topics[0].topic.ports == (2055, 9995)
    assert main(["config", "check", str(out)]) == 0
    capsys.readouterr()
    file.write_text("10.1.0.0/16: 10.0.2.11/2055 [::1]/2055\n")
    assert main(["director", "import", str(file), "--ports", "2055"]) == 3
    said = capsys.readouterr()
    assert parse(said.out).topics
    assert f"left out: {file}:1: [::1]/2055" in said.err
    assert f"# Left out: {file}:1: [::1]/2055" in said.out
    assert main(["director", "import", str(tmp_path / "gone.conf")]) == 1
    assert "gone.conf: cannot be read" in capsys.readouterr().err
    for wrong in ([], ["--ports", "0", str(file)], ["--kind", "nginx", "--to", "10.0.2.1", str(file)],
                  ["--kind", "pmacct", "--to", "10.0.2.1"]):  # fmt: skip
        assert main(["director", "import", *wrong]) == 2
