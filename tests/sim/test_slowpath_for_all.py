"""What is sent to all comes to both sockets of the data port: it is one event all the same."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from support.brokers import WAYS, Node, get
from support.waiting import LIMIT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has two sockets at a port")

SENT = 20
EACH = list(range(SENT + 1))
FOR_ALL = "127.255.255.255"
TOPICS = """
[[topic]]
id = 7
name = "strict"
class = "SQ"
framing = "raw"
[[topic.member]]
ip = "127.0.0.1"
port = {strict}
[[topic]]
id = 8
name = "usual"
framing = "raw"
[[topic.member]]
ip = "127.0.0.1"
port = {usual}
"""


def sink() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(LIMIT)
    return sock


@pytest.mark.parametrize("way", WAYS)
def test_an_event_that_is_sent_to_all_is_one(way: str, tmp_path: Path) -> None:
    with sink() as strict, sink() as usual, sink() as sender:
        sinks = {7: strict, 8: usual}
        topics = TOPICS.format(strict=strict.getsockname()[1], usual=usual.getsockname()[1])
        node = Node(tmp_path, topics, way)
        everywhere = node.file.read_text().replace('listen = ["127.0.0.1"]', 'listen = ["0.0.0.0"]')
        node.file.write_text(everywhere)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)

        def received() -> dict[str, int]:
            return {each["name"]: each["received"] for each in get(node.api, "/v1/status")["topics"]}

        with node.broker():
            assert get(node.api, "/v1/status")["quality"]["sockets"] == "classic", "each class has a socket"
            for number in range(SENT):
                for topic in sinks:
                    sender.sendto(bytes((topic, number)), (FOR_ALL, node.data))
            # To this broker alone, and behind all of them at each socket.
            for topic in sinks:
                sender.sendto(bytes((topic, SENT)), ("127.0.0.1", node.data))
            came = {topic: [sock.recv(100)[-1]] for topic, sock in sinks.items()}
            for topic, sock in sinks.items():
                while SENT not in came[topic] or len(came[topic]) <= SENT:
                    came[topic].append(sock.recv(100)[-1])
            assert {topic: sorted(numbers) for topic, numbers in came.items()} == dict.fromkeys(sinks, EACH)
            assert received() == {"strict": SENT + 1, "usual": SENT + 1}
