"""What outlives a broker: its maps and links, pinned in a folder of the BPF file system.

    /sys/fs/bpf/tempos/NAME/NAMESPACE/   routes small_routes tickets journals   the program's maps
                                         egress fanouts
                                         copies events sending
                                         counters pulse rows ports topics notes heard
                                         sources asked
                                         latency                                the same, where it is wanted
                                         journal_ROW journal_ROW_N              those that are being replaced
                                         identity                               what layout they have
                                         xdp_MODE_IFINDEX                       one link per interface
                                         tc_IFINDEX                             the same, of the tc program
                                         drops ingress drops_*                  those of the drop counters
                                         watched beside_*                       those that tell of VLAN tags

`identity` is removed first and written last: a set without it, or with another number in it than
ours, is of another version or half written, and its maps are not adopted. Its links still are: what
they run is replaced in place, so no packet meets an interface without a program.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tempos import Unavailable, _abi
from tempos._places import unquote
from tempos._rows import Rows
from tempos_bpf.bpffs import is_bpffs, mount_bpffs
from tempos_bpf.errors import BpfError
from tempos_bpf.links import InterfaceLink, Link, XdpLink, XdpMode, pinned_tc, pinned_xdp
from tempos_bpf.maps import Map, MapType, create_map, pinned_map
from tempos_fastpath.errors import NotPinned
from tempos_fastpath.rows import rows_in
from tempos_fastpath.survival.ownership import BPFFS, ROOT, Identity

MAPS = (
    "routes",
    "small_routes",
    "journals",
    "tickets",
    "egress",
    "fanouts",
    "copies",
    "events",
    "sending",
    "counters",
    "pulse",
    "rows",
    "ports",
    "topics",
    "notes",
    "heard",
    "sources",
    "asked",
)
#: Pinned only where latency is measured.
LATENCY = "latency"
#: And the row of a topic: its journal before the one in the map, until that has followed it; later ones are
#: numbered.
_JOURNAL = "journal_"
_IDENTITY = "identity"
_FRESH = "_fresh"
_TC = "tc_"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a broker before left. ``maps`` is empty if there is nothing to adopt, and ``note`` says why."""

    maps: Mapping[str, Map]
    links: tuple[XdpLink, ...]
    note: str = ""

    def close_maps(self) -> None:
        for each in self.maps.values():
            each.close()


class Held(Protocol):
    """The folder of a set that this process reaches by a descriptor only (:mod:`.handles`)."""

    @property
    def folder(self) -> Path: ...

    @property
    def gone(self) -> bool: ...

    def remove(self) -> None: ...


class Pins:
    """The pinned set of one identity; ``held``: reached by that."""

    def __init__(self, identity: Identity, held: Held | None = None) -> None:
        self.identity = identity
        self._held = held
        self.folder = ROOT / identity.folder if held is None else held.folder

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, rows: Rows | None = None) -> Kept:
        """Open what is pinned; the caller closes it. ``rows``: its tables must be for so many topics."""
        links = tuple(self.links())
        if self.path(_IDENTITY) not in self._files():
            note = "; an incomplete set of an earlier broker was replaced" if links else ""
            return Kept({}, links, note)
        maps: dict[str, Map] = {}
        try:
            with pinned_map(self.path(_IDENTITY)) as identity:
                theirs = identity.lookup(0)
            if theirs != _FINGERPRINT:
                note = "; tickets and counters begin anew, for the earlier broker was of another version"
                return Kept({}, links, note)
            for name in MAPS:
                maps[name] = pinned_map(self.path(name))
            if rows is not None and maps["topics"].max_entries != rows.count:
                for each in maps.values():
                    each.close()
                note = "; tickets and counters begin anew, for the earlier broker had other limits.topics"
                return Kept({}, links, note)
            if self.path(LATENCY) in self._files():
                maps[LATENCY] = pinned_map(self.path(LATENCY))
        except Unavailable as error:
            for each in maps.values():
                each.close()
            return Kept({}, links, f"; the earlier broker's state cannot be read ({error})")
        return Kept(maps, links)

    def links(self) -> Iterator[XdpLink]:
        """Every pinned XDP link whose interface is still there."""
        for path in self._files("xdp_"):
            link = pinned_xdp(path, XdpMode(path.name.split("_")[1]))
            if link.ifindex:
                yield link
            else:
                link.close()

    def tc_links(self) -> Iterator[InterfaceLink]:
        """The same of the tc program's links."""
        for path in self._files(_TC):
            link = pinned_tc(path)
            if link.ifindex:
                yield link
            else:
                link.close()

    def put_maps(self, maps: Mapping[str, Map]) -> None:
        """Pin ``maps`` in place of those that are there."""
        with self._writing():
            self.path(_IDENTITY).unlink(missing_ok=True)
            for path in (self.path(LATENCY), *self._files(_JOURNAL)):
                path.unlink(missing_ok=True)
            for name in MAPS:
                self._put(name, maps[name])
            with create_map(_IDENTITY, MapType.ARRAY, key_size=4, value_size=8, max_entries=1) as identity:
                identity.update(0, _FINGERPRINT)
                self._put(_IDENTITY, identity)

    def put_map(self, name: str, value: Map) -> None:
        with self._writing():
            self._put(name, value)

    def drop(self, name: str) -> None:
        """Remove the pin of something that is of no use any more, if there is one."""
        with self._writing():
            self.path(name).unlink(missing_ok=True)

    def put_journal(self, row: int, journal: Map) -> None:
        """Have what was a topic's journal outlive this process, beside what that had not taken over."""
        older = len(self._former(row))
        self.put_map(f"{_JOURNAL}{row}_{older}" if older else f"{_JOURNAL}{row}", journal)

    def journals(self) -> list[int]:
        """The rows whose former journals are there."""
        rows = {path.name.split("_")[1] for path in self._files(_JOURNAL)}
        return sorted(int(row) for row in rows if row.isdecimal())

    def former_journals(self, row: int) -> list[Map]:
        """The former journals of that row, the latest first; the caller closes them."""
        return [pinned_map(path) for path in reversed(self._former(row))]

    def drop_journals(self, row: int) -> None:
        for path in self._former(row):
            self.drop(path.name)

    def _former(self, row: int) -> list[Path]:
        """The oldest first."""
        name = f"{_JOURNAL}{row}"
        found = [path for path in self._files(name) if path.name == name or path.name.startswith(f"{name}_")]
        return sorted(found, key=lambda path: (len(path.name), path.name))

    def put_tracing(self, link: Link, name: str) -> None:
        """Pin what holds a tracing program, in place of the one that is there."""
        with self._writing():
            self._put(name, link)

    def put_link(self, link: XdpLink) -> None:
        self._put_link(link, f"xdp_{link.mode.value}_{link.ifindex}")

    def put_tc_link(self, link: InterfaceLink) -> None:
        self._put_link(link, f"{_TC}{link.ifindex}")

    def _put_link(self, link: InterfaceLink, name: str) -> None:
        with self._writing():
            path = self.path(name)
            path.unlink(missing_ok=True)
            link.pin(path)

    def topics(self) -> tuple[int, ...]:
        """The topics that have a route, as far as that can be read."""
        with contextlib.suppress(Unavailable), contextlib.ExitStack() as stack:
            routes, small, rows = (
                stack.enter_context(pinned_map(self.path(name)))
                for name in ("routes", "small_routes", "rows")
            )
            known = {topic: row for topic, row in rows_in(rows).items() if row < routes.max_entries}
            return tuple(topic for topic, row in known.items() if routes.lookup(row) or small.lookup(row))
        return ()

    def remove(self) -> None:
        """Remove every pin; what a process still holds lives on in it. Safe to call twice."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self.folder.stat()
        except PermissionError:
            # Out of our reach: then nothing in it can be ours.
            return
        try:
            for path in (self.path(_IDENTITY), *self._files()):
                path.unlink(missing_ok=True)
            if self._held is not None:
                # Where it lies in a folder of root's, it stays there, and is empty.
                with contextlib.suppress(OSError):
                    self._held.remove()
                return
            with contextlib.suppress(FileNotFoundError):
                self.folder.rmdir()
            # Other namespaces' sets of this name, and other names, may still stand beside it.
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()
                self.folder.parent.parent.rmdir()
        except OSError as error:
            _log.warning(
                "pins of the fast path remain in %s (%s); `tempos fastpath clean` removes them",
                self.folder,
                error.strerror,
            )

    def _files(self, start: str = "") -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.name.startswith(start))
        except OSError:
            # None there, or out of our reach: then there is nothing to go on with either.
            return []

    @property
    def gone(self) -> bool:
        """Whether somebody removed the set; not where that cannot be told."""
        if self._held is not None:
            return self._held.gone
        try:
            self.folder.stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
        except (OSError, BpfError) as error:
            raise NotPinned(f"nothing can be pinned to {self.folder}: {error}") from error

    def _put(self, name: str, value: Map | Link) -> None:
        """Pin beside it, then move over: the name always leads to one."""
        fresh = self.path(name + _FRESH)
        fresh.unlink(missing_ok=True)
        value.pin(fresh)
        fresh.rename(self.path(name))


def all_pins() -> list[Pins]:
    """The sets of all brokers of this machine, whatever their network namespace."""
    try:
        folders = [folder for folder in sorted(ROOT.glob("*/*")) if folder.name.isdecimal()]
    except OSError:
        return []
    return [Pins(Identity(unquote(folder.parent.name), int(folder.name))) for folder in folders]


def need_bpffs() -> None:
    """See to it that there is a BPF file system to pin to; raises :class:`NotPinned`."""
    if is_bpffs(BPFFS):
        return
    try:
        # Two brokers that start together must not mount one over the other's.
        fd = os.open(BPFFS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotPinned(f"{BPFFS} cannot be opened ({error.strerror})") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not is_bpffs(BPFFS):
            mount_bpffs(BPFFS)
    except (OSError, BpfError) as error:
        raise NotPinned(str(error).partition("\n")[0]) from error
    finally:
        os.close(fd)


_FINGERPRINT = _abi.ABI_FINGERPRINT.to_bytes(8, sys.byteorder)
