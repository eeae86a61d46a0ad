#!/bin/sh
# pymodbus gives an answer to another question, of another function and length, as a reading without error.
#
# Versions    pymodbus 3.16.1, its asyncio and its plain client; nothing of Modbus but loopback.
# Expected    Frames of serial lines (RTU, also through TCP, as serial servers speak it) have no number by which an answer
#             finds its request, so one that comes too late may be taken for that of the next request. But an answer
#             names its function and has its length: where two input registers were asked for, what
#             says "one holding register" is no answer, and isError() says so.
# What it does  The next frame of that unit, whatever it holds, is the answer. A device that answers once after the
#             timeout makes the next call return what was in other registers of another table: isError() is false, and
#             fewer or more values come than were asked for.
# Source      pymodbus 3.16.1, transaction/transaction.py, execute() and sync_execute(): unit and transaction are
#             compared, of which RTU has none; what function was asked for is not, nor how much.
# For us      Triggers of kind modbus speak Modbus/TCP, which numbers its frames, ask nothing anew on a connection that an
#             answer was missing on, and take no answer of another length (clients/tempos_trigger/sources/modbus.py).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" && "$folder/v/bin/pip" install -q --disable-pip-version-check pymodbus==3.16.1 ||
    { echo "pymodbus 3.16.1 cannot be had" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import asyncio
import logging
import socket
import sys
import threading
import time

from pymodbus import FramerType
from pymodbus.client import AsyncModbusTcpClient, ModbusTcpClient
from pymodbus.framer.rtu import FramerRTU

logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
OPTIONS = {"framer": FramerType.RTU, "timeout": 0.5, "retries": 0}
LATE = 0.8
WANTED = (("read_holding_registers", 10, 1), ("read_input_registers", 20, 2))


def device(listening):
    """Each register holds its address. The first answer comes too late, the next at once."""
    asking, _ = listening.accept()
    with asking:
        for late in (LATE, 0):
            asked = asking.recv(8, socket.MSG_WAITALL)
            unit, function, at, count = asked[0], asked[1], int.from_bytes(asked[2:4], "big"), asked[5]
            time.sleep(late)
            answer = bytes((unit, function, 2 * count))
            answer += b"".join((at + each).to_bytes(2, "big") for each in range(count))
            asking.sendall(answer + FramerRTU.compute_CRC(answer).to_bytes(2, "big"))
        asking.recv(8)


def plain(port):
    client = ModbusTcpClient("127.0.0.1", port=port, **OPTIONS)
    client.connect()
    for read, at, count in WANTED:
        try:
            answer = getattr(client, read)(at, count=count, device_id=1)
        except Exception as error:
            answer = error
        yield answer
    client.close()


async def by_asyncio(port):
    client = AsyncModbusTcpClient("127.0.0.1", port=port, **OPTIONS)
    await client.connect()
    answers = [await asyncio.gather(getattr(client, read)(at, count=count, device_id=1), return_exceptions=True)
               for read, at, count in WANTED]
    client.close()
    return [each for each, in answers]


seen = []
for name, play in (("plain", lambda port: list(plain(port))), ("asyncio", lambda port: asyncio.run(by_asyncio(port)))):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=device, args=(listening,), daemon=True)
        thread.start()
        first, second = play(listening.getsockname()[1])
    failed = type(first).__name__
    got = (second.isError(), second.function_code, second.registers) if hasattr(second, "isError") else repr(second)
    print(f"the {name} client: register 10 of function 3, count 1: {failed};")
    print(f"  then registers 20 and 21 of function 4: isError, function, registers: {got}")
    seen.append((failed, got))
sys.exit(seen != [("ModbusIOException", (False, 3, [10]))] * 2)
SOURCE
timeout 60 "$folder/v/bin/python" "$folder/run.py"
