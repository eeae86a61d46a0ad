"""WIRE.md, for clients in other languages: it lays bytes out as they are, and its test vectors are right."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from tempos import Topic, TopicKeys, WireError, _abi, control, wire
from tempos.delivery import GapTracker
from tempos.encryption import Decryptor, Encryptor
from tempos.session import replayed

PAGE = Path(__file__).resolve().parents[2] / "WIRE.md"
VECTORS = PAGE.parent / "clients" / "vectors"


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of the page, without its head."""
    table = PAGE.read_text().split(f"{heading}\n", 1)[1].split("\n|", 1)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip(" |").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize(
    ("heading", "layout", "prefix"),
    [
        ("### 2.1 The header of an event", _abi.EVENT_HEADER, "OFFSET_"),
        ("### 2.2 The envelope of requests and replies", _abi.ENVELOPE, "ENVELOPE_"),
    ],
)
def test_the_page_lays_bytes_out_as_they_are(heading: str, layout: struct.Struct, prefix: str) -> None:
    told = [(int(row[0]), int(row[1]), row[2].partition(":")[0]) for row in rows(heading)]
    assert [at for at, _, name in told] == [getattr(_abi, prefix + name.upper()) for _, _, name in told]
    ends = [*(at for at, _, _ in told[1:]), layout.size]
    assert [at + size for at, size, _ in told] == ends


def test_the_vectors_of_encrypted_bodies() -> None:
    loaded = json.loads((VECTORS / "encryption.json").read_text())
    assert [(int(row[0]), row[1]) for row in rows("### 2.3 Encrypted bodies")] == [
        (0, "1"), (1, "1"), (2, "12"), (14, "6"), (20, "any"),
    ]  # fmt: skip
    for each in loaded["datagrams"]:
        plain, whole = bytes.fromhex(each["clear"]), bytes.fromhex(each["encrypted"])
        topic = Topic(wire.topic_in(plain), each["topic"])
        keys = TopicKeys({each["topic"]: each["secret"]}).of(topic)
        session = bytes.fromhex(each["session"])
        encryptor = Encryptor(keys[0], lambda size, session=session: session)
        encryptor._counter = each["counter"]
        at = each["body_at"]
        assert encryptor.encrypt(plain[:at], plain[at:]) == whole, each["name"]
        laid, sent_ns = (
            (wire.as_narrow(whole) if whole[0] == _abi.WIDE else whole),
            wire.decode_event(plain).sent_ns,
        )
        assert Decryptor(keys).decrypt(laid, sent_ns)[at - len(whole) + len(laid) :] == plain[at:]


def test_the_page_names_the_flags_and_the_operations() -> None:
    table = PAGE.read_text().split("| flag |")[1].split("\n\n")[0]
    flags = {name: int(value) for name, value in re.findall(r"^\| ([A-Z]+) \| (\d+)", table, re.MULTILINE)}
    assert flags == {
        name.removeprefix("FLAG_"): value for name, value in vars(_abi).items() if name.startswith("FLAG_")
    }
    told = {
        row[0]: set(re.findall(r"\w+", row[1].partition(" and more")[0]))
        for row in rows("### 4.1 Operations")
    }
    assert told.keys() == control.OPERATIONS.keys()
    for op, (_, fields, _) in control.OPERATIONS.items():
        known = {field.name for field in fields}
        assert told[op] - {"as", "heartbeat"} <= known, op
        if "as" not in told[op]:
            assert {field.name for field in fields if field.required} <= told[op], op


def test_the_vectors_of_data() -> None:
    loaded = json.loads((VECTORS / "data.json").read_text())
    for each in loaded["decode"]:
        datagram = bytes.fromhex(each["hex"])
        if "refused" in each:
            with pytest.raises(WireError) as raised:
                wire.decode_event(datagram)
            found = raised.value.reason
            assert (found.name if found else "BATCH") == each["refused"], each["name"]
            continue
        event = wire.decode_event(datagram)
        assert each["event"] == {
            **{name: getattr(event, name) for name in ("topic", "flags", "epoch", "publisher", "sequence")},
            "delivery_sequence": event.delivery_sequence,
            "sent_ns": str(event.sent_ns),
            "envelope": None if event.envelope is None else event.envelope.hex(),
            "bodies": [body.hex() for body in event.bodies],
        }, each["name"]
    for each in loaded["encode"]:
        numbers = (each["topic"], each["publisher"], each["sequence"], int(each["sent_ns"]))
        made = wire.encode_event(*numbers, bytes.fromhex(each["body"]), each["flags"])
        assert made.hex() == each["hex"], each["name"]


def test_the_vectors_of_losses() -> None:
    for each in json.loads((VECTORS / "gaps.json").read_text())["gaps"]:
        gaps = GapTracker()
        for step, *numbers in each["steps"]:
            if step == "see":
                assert gaps.see(*numbers[:2]) == numbers[2], each["name"]
            elif step == "acknowledge":
                gaps.acknowledge(control.Received(1, "g", *numbers))
            else:
                getattr(gaps, step)(*numbers)
        told = [[row.epoch, row.datagrams] for row in gaps.report(1, "g")]
        sums = {name: getattr(gaps, name) for name in each["end"] if name != "report"}
        assert {**sums, "report": sorted(told)} == each["end"], each["name"]


def test_the_vectors_of_what_is_out_of_a_journal() -> None:
    for each in json.loads((VECTORS / "replay.json").read_text())["replayed"]:
        found = replayed.decode(bytes.fromhex(each["hex"]))
        if each["topic"] is None:
            assert found is None, each["name"]
        else:
            assert found is not None, each["name"]
            assert (found.topic, found.number) == (each["topic"], each["number"])
            assert found.datagram.hex() == each["datagram"], each["name"]


def test_the_vectors_of_control() -> None:
    for each in json.loads((VECTORS / "control.json").read_text())["datagrams"]:
        datagram = bytes.fromhex(each["hex"])
        if each["name"].startswith("request"):
            request = control.decode_request(datagram)
            told = {name for name, value in request.fields.items() if value is not None}
            assert each["message"].keys() - {"v", "id", "op", "client", "pad"} == told, each["name"]
        else:
            reply = control.decode_reply(datagram)
            assert (reply.error is None) == ("ok" in each["message"]), each["name"]
