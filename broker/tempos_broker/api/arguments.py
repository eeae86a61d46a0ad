"""What the operations of the control API take."""

from __future__ import annotations

from tempos import PathPolicy
from tempos.names import MAX_BYTES
from tempos_daemon.operations import Choice, Number, Text, Truth

#: Seconds that a drain waits if its request does not say.
DRAIN_PATIENCE = 5.0
#: Seconds for which one can be kept out at most: a year. What is longer is until let in.
KEEP_OUT_MOST = 366 * 86_400.0

TOPIC_NAME = Text("name of the topic", shortest=1, longest=MAX_BYTES)
GROUP = Text("name of the group", shortest=1, longest=64)
CLIENT_ID = Text("id of the client", shortest=1, longest=64)
BROKER_NAME = Text("name of the broker", shortest=1, longest=64)
MEMBER = Text("ip:port", pattern=r"^[0-9]{1,3}(\.[0-9]{1,3}){3}:[0-9]{1,5}$", example="10.0.2.2:5000")
POLICY = Choice(tuple(each.value for each in PathPolicy))
MAX_AGE = Number(
    "seconds: so old it may be if it is there already, instead of being made anew; Age says how old it is, "
    "Tempos-Told-At when it began to be made",
    most=60,
    default=0.0,
)
KEEP_OUT = Number(
    "seconds for which it may not come back, 0: it may at once; by default two leases", most=KEEP_OUT_MOST
)
UNTIL_LET_IN = Truth("it may not come back until it is let in")
PATIENCE = Number("seconds", most=60, default=DRAIN_PATIENCE)
DRAIN = Truth("also if it has members: they get what is on its way, and are told")
DRAIN_SECONDS = Number("seconds that a drain waits for what they confirm", most=60, default=DRAIN_PATIENCE)
