"""Clients in processes that were forked off: an error that says so, no endless wait, nothing doubled."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys

import pytest
from sim.test_strangers import LIMIT, publisher, running, subscriber

import tempos
from tempos import LocalError, blocking

#: What the child says of each try, and what it does with clients of its own; then the parent goes on.
PROGRAM = """
import asyncio, json, os, sys, warnings
warnings.simplefilter("ignore")
import tempos
from tempos import blocking, LocalError
data, control = map(int, sys.argv[1:])
options = {"data_port": data, "control_port": control}
said = {}

def tried(what, act):
    try:
        said[what] = repr(act())
    except LocalError as error:
        said[what] = str(error)

async def both():
    pub = await tempos.Publisher("127.0.0.1", **options).__aenter__()
    sub = await tempos.Subscriber("127.0.0.1", "alpha", control_port=control).__aenter__()
    await pub.publish("alpha", "of the parent")
    return pub, sub

loop = asyncio.new_event_loop()
pub, sub = loop.run_until_complete(both())
bpub = blocking.Publisher("127.0.0.1", **options).__enter__()
bsub = blocking.Subscriber("127.0.0.1", "alpha", control_port=control).__enter__()
bpub.publish("alpha", "of the parent")
bpub.flush()
read, write = os.pipe()
if not os.fork():
    asyncio._set_running_loop(None)
    tried("publish", lambda: asyncio.run(pub.publish("alpha", "doubled")))
    tried("next", lambda: asyncio.run(sub.next(1)))
    tried("poll", sub.poll)
    tried("take", lambda: sub.take(9))
    tried("on_events", lambda: sub.on_events(print))
    tried("blocking publish", lambda: bpub.publish("alpha", "doubled"))
    tried("blocking flush", lambda: bpub.flush())
    tried("blocking next", lambda: bsub.next(1))
    tried("blocking poll", bsub.poll)
    tried("blocking unsubscribe", lambda: bsub.unsubscribe("alpha"))
    for each in (bpub, bsub):
        tried(f"close {type(each).__name__}", each.close)
    with blocking.Publisher("127.0.0.1", **options) as own:
        own.publish("alpha", "of the child")
    os.write(write, json.dumps(said).encode())
    os._exit(0)
os.wait()
bpub.publish("alpha", "after")
loop.run_until_complete(pub.publish("alpha", "after"))
bpub.close()
print(os.read(read, 65536).decode())
print(json.dumps([bsub.next(10).unpack() for _ in range(4)]))
bsub.close()
loop.run_until_complete(pub.close())
loop.run_until_complete(sub.close())
"""


async def test_a_child_has_no_client_of_its_parents_and_makes_its_own() -> None:
    async with running() as broker, subscriber(broker, "alpha", group="g") as sub, publisher(broker):
        ports = (str(broker.config.data_port), str(broker.config.control_port))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            *ports,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 3 * LIMIT)
        assert process.returncode == 0, err.decode()
        said, got = map(json.loads, out.splitlines())
        assert (said.pop("close Publisher"), said.pop("close Subscriber")) == ("None", "None")
        assert len(said) == 10
        for words in said.values():
            assert "was made before this process was forked off" in words, said
        assert sorted(got) == ["after", "after", "of the child", "of the parent"]
        events = [await sub.next(LIMIT) for _ in range(5)]
        assert sorted(event.unpack() for event in events) == [
            "after", "after", "of the child", "of the parent", "of the parent"
        ]  # fmt: skip
        numbers = [(event.publisher, event.sequence) for event in events]
        assert len(set(numbers)) == 5
        assert sub.stats.duplicates == 0


@pytest.mark.parametrize("home", [tempos, blocking])
def test_a_client_cannot_be_handed_to_another_process(home: object) -> None:
    for client in (home.Publisher("127.0.0.1"), home.Subscriber("127.0.0.1", "alpha")):  # type: ignore[attr-defined]
        with pytest.raises(LocalError, match="cannot be handed to another process: make one there"):
            pickle.dumps(client)
