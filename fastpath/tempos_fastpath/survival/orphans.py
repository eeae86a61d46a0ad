"""The fast paths of this machine, whoever's they are, and how to remove what a dead broker left."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tempos import Unavailable
from tempos._places import folders
from tempos_bpf.links import XdpLink
from tempos_fastpath.errors import Owned
from tempos_fastpath.survival.ownership import (
    BPFFS,
    ROOT,
    Identity,
    Owner,
    current_namespace,
    forget,
    owners,
)
from tempos_fastpath.survival.pins import Pins, all_pins

#: Seconds after which nobody fills an empty folder any more.
_ABANDONED = 60.0


@dataclass(frozen=True, slots=True)
class Installed:
    """One fast path. ``pid`` is its broker's, or 0 where nobody wrote it down; ``alive``: it still runs.

    ``interfaces``: (name, mode) of each link that still forwards. ``pinned``: it outlives its broker.
    """

    identity: Identity
    pid: int
    alive: bool
    interfaces: tuple[tuple[str, str], ...]
    topics: tuple[int, ...]
    pinned: bool


def installed(concerns: Callable[[Identity], bool] = lambda identity: True) -> tuple[Installed, ...]:
    """All fast paths, living and orphaned, in every network namespace; or those that it ``concerns``."""
    known = {owner.identity: owner for owner in owners()}
    pinned = {pins.identity: pins for pins in all_pins()}
    identities = sorted({*known, *pinned}, key=lambda each: (each.name, each.namespace))
    found = (_describe(each, known.get(each), pinned.get(each)) for each in identities if concerns(each))
    # A lock file without a living process or a pin is nothing any more.
    return tuple(each for each in found if each.alive or each.pinned)


def unseen() -> str:
    """Where this user cannot look for fast paths, and why; empty: :func:`installed` is all that there is."""
    # One after the other: what is in a folder is asked for once that can be.
    for folder in itertools.chain((BPFFS, ROOT), _folders(ROOT)):
        try:
            os.scandir(folder).close()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"cannot look into {folder} ({error.strerror}): run it as root"
    return ""


def _folders(base: Path) -> Iterator[Path]:
    """Of each name, once ``base`` can be looked into."""
    yield from sorted(each for each in base.iterdir() if each.is_dir())


def orphans(concerns: Callable[[Identity], bool] = lambda identity: True) -> tuple[Installed, ...]:
    """Those whose broker is gone."""
    return tuple(each for each in installed(concerns) if not each.alive)


def remove(which: Installed, *, force: bool = False) -> None:
    """Detach its programs and remove its pins. Raises :class:`Owned` if its broker lives, unless forced."""
    if which.alive and not force:
        raise Owned(
            f"the broker {which.identity.name!r} (process {which.pid}) is alive: stop it instead, "
            "or use --force and let it go on by the slow path"
        )
    pins = Pins(which.identity)
    for link in (*pins.links(), *pins.tc_links()):
        link.detach()
    pins.remove()
    forget(which.identity)


def tidy() -> None:
    """Remove the lock files and empty folders of dead brokers that left nothing else.

    Nothing where that cannot be seen. Who has given itself up to be another user, or could not start, may not
    have been able to remove its own folder.
    """
    try:
        os.scandir(ROOT).close()
    except FileNotFoundError:
        pass
    except OSError:
        return
    left = {pins.identity for pins in all_pins()}
    for owner in owners():
        if not owner.alive and owner.identity not in left:
            forget(owner.identity)
    _remove_empty([folder for _, folder in folders()])
    with contextlib.suppress(OSError):
        _remove_empty([each for each in ROOT.iterdir() if each.is_dir()])


def _remove_empty(found: Iterable[Path]) -> None:
    for folder in found:
        # One that is young may be about to be filled. Only what is empty can be removed.
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED:
                folder.rmdir()


def strangers(name: str) -> list[str]:
    """What dead brokers left that still forwards, and that a broker of this name here will not take off.

    In words, a sentence each: sets of the same name in other network namespaces, of other names in this one.
    What of the former has no interface any more, since its namespace has ended, is removed. Blocks.
    """
    here = current_namespace()
    told = []
    # What is its own would be read for nothing: it may have thousands of topics.
    for each in orphans(lambda other: (other.name == name) != (other.namespace == here)):
        other = each.identity
        if other.name == name and not each.interfaces:
            with contextlib.suppress(Unavailable, OSError):
                remove(each)
        elif each.interfaces:
            held = ", ".join(interface for interface, _ in each.interfaces)
            where = f"another network namespace ({other.namespace})" if other.name == name else held
            told.append(
                f"the fast path of a broker named {other.name!r}, which is gone, still forwards in {where}, "
                "past every other broker: start that one again, or remove what it left: "
                f"tempos fastpath clean {other.name}"
            )
    return told


def holder_of(ifindex: int, but: Identity) -> Installed | None:
    """Whose fast path, other than ``but``, holds an interface of the calling thread's namespace."""
    namespace = current_namespace()
    known = {owner.identity: owner for owner in owners() if owner.identity.namespace == namespace}
    for identity, owner in known.items():
        if identity != but and owner.alive and ifindex in owner.interfaces.values():
            return _describe(identity, owner, None)
    for pins in all_pins():
        if pins.identity != but and pins.identity.namespace == namespace:
            with contextlib.ExitStack() as stack:
                links = [stack.enter_context(link) for link in pins.links()]
                if ifindex in {link.ifindex for link in links}:
                    return _describe(pins.identity, known.get(pins.identity), pins)
    return None


def refuse_if_owned(ifindex: int, name: str, but: Identity) -> None:
    """Raise :class:`Owned` where another's fast path holds an interface."""
    holder = holder_of(ifindex, but)
    if holder is None:
        return
    whose = holder.identity.name
    if holder.alive:
        raise Owned(
            f"{name} belongs to the fast path of the broker {whose!r} (process {holder.pid}); "
            "stop that one, or leave the interface out in fastpath.interfaces"
        )
    raise Owned(
        f"{name} still carries the fast path of the broker {whose!r}, which is gone; start that "
        f"one again, or remove what it left: tempos fastpath clean {whose}"
    )


def _describe(identity: Identity, owner: Owner | None, pins: Pins | None) -> Installed:
    interfaces: tuple[tuple[str, str], ...] = ()
    names = {index: name for name, index in owner.interfaces.items()} if owner else {}
    if pins is not None:
        with contextlib.ExitStack() as stack, contextlib.suppress(Unavailable):
            links = [stack.enter_context(link) for link in pins.links()]
            interfaces = tuple(_named(link, names, identity) for link in links)
    elif owner is not None:
        interfaces = tuple((name, "not pinned") for name in owner.interfaces)
    return Installed(
        identity,
        owner.pid if owner else 0,
        bool(owner and owner.alive),
        interfaces,
        pins.topics() if pins else (),
        pins is not None,
    )


def _named(link: XdpLink, names: dict[int, str], identity: Identity) -> tuple[str, str]:
    name = names.get(link.ifindex, f"interface {link.ifindex}")
    if link.ifindex not in names and identity.namespace == current_namespace():
        with contextlib.suppress(OSError):
            name = socket.if_indextoname(link.ifindex)
    return name, link.mode.value
