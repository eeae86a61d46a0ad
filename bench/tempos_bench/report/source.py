"""The source document's experiments: what it measured, what it found, and where ours stand.

The document is the thesis that the system comes from, its chapters 2.3 (TEMPOS) and 5 (XDP). Its nodes
were machines with network cards and cables; ours are namespaces on one machine joined by veth
links. So times of whole journeys cannot be held against each other, shares and differences can.
"""

from __future__ import annotations

from dataclasses import dataclass

NOT_A_NIC = (
    "the source had network cards, cables and idle processors between the nodes; here a journey is software "
    "on one machine: its times are no comparison, the difference between the variants is"
)


#: How the scenarios begin that are the source's own experiments.
PREFIX = "source-"


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the source in our numbers.

    ``rows``: the figures whose rounds are drawn one after the other (``along``: what one step is;
    ``floor``: where the axis begins). Where there are none, the image whose name holds ``image``, or else
    the distributions of the scenario's samples.
    """

    number: str
    title: str
    scenario: str
    theirs: str
    rows: tuple[str, ...] = ()
    along: str = ""
    floor: float | None = None
    image: str = ""


PICTURES = (
    Picture(
        "2.1", "latency of both qualities, each alone", "qos-workflows",
        "SQ and BQ at 1,000 events/s for 5 minutes; an event took at most 0.7 ms, BQ much longer than SQ.",
        image="alone",
    ),
    Picture(
        "2.2", "latency of both qualities side by side", "qos-workflows",
        "1 SQ + 1 BQ, then 1 SQ + 3 BQ, 1,000 events/s each; SQ is not affected by BQ.",
        image="beside",
    ),
    Picture(
        "2.3", "2 SQ and 4 BQ functions at once, in each way to run them", "invoke",
        "from above: a library loaded dynamically, a program, a WASM module; the time of SQ is about half of "
        "BQ's, and constant.",
        image="beside",
    ),
    Picture(
        "2.4", "latency from end to end over a rising rate", "workflows",
        "two workflows set off by the same event, apart and then both, 0 to 1,000 events/s each; BQ degrades "
        "from about 500 events/s on, SQ hardly.",
        image="rate",
    ),
    Picture(
        "2.4", "of that the delivery alone", "qos-rate",
        "the same; the source has no figure of the delivery by itself.",
        image="latency",
    ),
    Picture(
        "5.1", "received of 100,000 sent without a pause", "source-loss",
        "some of them lost in both modes, generic with dips below native.",
        rows=("native: received, no pause", "generic: received, no pause", "slow path: received, no pause"),
        along="repetition",
    ),
    Picture(
        "5.2", "run time of the program, one message at a time", "source-time",
        "generic takes longer than native on the average, and varies more.",
        rows=("native, sparse", "generic, sparse"), along="sample", floor=0.0,
    ),
)  # fmt: skip
