"""``tempos ctl client``: make, change, remove and list the clients that may ask a running broker."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tempos.auth import Key, read_key_file
from tempos.cli.answer import show_answer
from tempos.cli.api import Api, orders_of
from tempos.cli.completion import with_clients, with_topics
from tempos.cli.status import table
from tempos.cli.topics import ask
from tempos.errors import ApiRefused, LocalError

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers

#: Bytes of a key that is made here.
_KEY_BYTES = 32

_EXAMPLES = """\
examples:
  tempos ctl client add sensor-1 --publish 'plant/#' -o sensor-1.key
                                            a fresh key, in a file that --auth-file takes (mode 0600)
  tempos ctl client add sensor-2 --publish alarms --subscribe '*'
                                            the same, printed once: no broker tells a key again
  tempos ctl client add sensor-3 --key-file sensor-3.key
                                            with the key in a file of the client's
  tempos ctl client set sensor-1 --subscribe alarms --publish 'plant/#'
  tempos ctl client set sensor-1 --new-key -o sensor-1.new
                                            another key; the one before is refused from then on
  tempos ctl client remove sensor-1
  tempos ctl client list

Options and checks are those of [[client]] in the broker's file, beside which these clients stand. What is
made here survives a restart of the broker. With the first client everybody has to sign (but for
control.open_networks), and that stays so when the last one is removed, until `tempos ctl client open`.
"""


def register(actions: Subparsers) -> None:
    """Add ``client`` to the actions of ``tempos ctl``."""
    add = orders_of(
        actions, "client", "make, change, remove or list clients and their keys",
        "Make, change, remove or list the clients that may ask a running broker, by their keys.", _EXAMPLES,
    )  # fmt: skip
    made = add("add", "make a client; it may ask when this returns", _add)
    changed = add("set", "change rights or key of a client that was made at run time", _set)
    gone = add("remove", "remove a client that was made at run time; what it signs is refused", _remove)
    made.add_argument("id", metavar="ID")
    for each in (changed, gone):
        with_clients(each.add_argument("id", metavar="ID"))
    for each in (made, changed):
        key = each.add_mutually_exclusive_group()
        key.add_argument("--key-file", metavar="FILE",
                         help='its key: a file with "id hexkey", as --auth-file takes')  # fmt: skip
        key.add_argument(
            "--new-key", action="store_true", help="a fresh key" + (" (the default)" if each is made else "")
        )
        each.add_argument("-o", "--output", metavar="FILE",
                          help="write a fresh key to this file, instead of printing it")  # fmt: skip
        for right, what in (("publish", "it may publish to"), ("subscribe", "it may subscribe to")):
            with_topics(each.add_argument(
                f"--{right}", metavar="F", action="append",
                help=f"a topic, a filter, or * for every topic, that {what}; may be given several times",
            ))  # fmt: skip
    changed.add_argument(
        "--default", choices=("publish", "subscribe"), action="append", default=[], dest="defaults",
        help="take these rights away; may be given several times",
    )  # fmt: skip
    add("list", "every client, who made it, and its rights", _list)
    add("open", "take requests without a signature again, where there is no client", _open)
    add("close", "demand signatures, though there is no client yet", _close)


def _key(options: argparse.Namespace) -> Key | None:
    """The key to use; None: as it is."""
    if options.key_file is not None:
        if options.output is not None:
            options.fail("-o FILE is for a fresh key: give it without --key-file")
        key = read_key_file(options.key_file)
        if key.id != options.id:
            raise LocalError(f"the key file {options.key_file} is of client {key.id!r}, not {options.id!r}")
        return key
    if options.new_key or options.order == "add":
        return Key(options.id, secrets.token_bytes(_KEY_BYTES))
    if options.output is not None:
        options.fail("-o FILE is for a fresh key: give --new-key besides")
    return None


@contextlib.contextmanager
def _kept(path: str | None, key: Key | None) -> Iterator[None]:
    """Have a key in a file before the broker has it; where the broker refuses it, that is gone again."""
    if path is None or key is None:
        yield
        return
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalError(f"the key file {path} cannot be made: {error.strerror or error}") from error
    try:
        with os.fdopen(number, "w", encoding="ascii") as file:
            file.write(f"{key.id} {key.secret.hex()}\n")
            file.flush()
            os.fsync(number)
    except OSError as error:
        Path(path).unlink(missing_ok=True)
        raise LocalError(f"the key file {path} cannot be written: {error.strerror or error}") from error
    try:
        yield
    except ApiRefused:
        Path(path).unlink(missing_ok=True)
        raise


def _order(options: argparse.Namespace, call: Callable[[dict[str, Any]], Any]) -> int:
    key = _key(options)
    body: dict[str, Any] = {} if key is None else {"key": key.secret.hex()}
    body |= {
        right: given for right in ("publish", "subscribe") if (given := getattr(options, right)) is not None
    }
    body |= dict.fromkeys(getattr(options, "defaults", ()))
    fresh = key if options.key_file is None else None

    def kept() -> Any:
        with _kept(options.output, fresh):
            return call(body)

    answer = ask(kept)
    if options.json and fresh is not None and options.output is None and isinstance(answer, dict):
        # Where else should it be found?
        answer = {**answer, "key": fresh.secret.hex()}

    def show(client: Any) -> str:
        lines = [_one(client)]
        if fresh is not None:
            lines.append(
                f"  its key is in {options.output}" if options.output is not None
                else "  its key is told only now; this line goes into a file of mode 600, for --auth-file:\n"
                f"{fresh.id} {fresh.secret.hex()}"
            )  # fmt: skip
        return "\n".join(lines)

    show_answer(options, answer, show)
    return 0


def _add(options: argparse.Namespace) -> int:
    return _order(options, lambda body: Api.of(options, 30).post("/v1/clients", {"id": options.id, **body}))


def _set(options: argparse.Namespace) -> int:
    rights = {right for right in ("publish", "subscribe") if getattr(options, right) is not None}
    if not (rights or options.defaults or options.new_key or options.key_file or options.output):
        options.fail("what to change? give rights, a key, or --default RIGHT")
    if both := sorted(rights & set(options.defaults)):
        options.fail(f"--default {both[0]} stands beside another value for it: give one of both")
    return _order(options, lambda body: Api.of(options, 30).patch(_address(options.id), body))


def _remove(options: argparse.Namespace) -> int:
    answer = ask(lambda: Api.of(options, 30).delete(_address(options.id)))

    def show(done: Any) -> str:
        left = "" if done["clients"] else f"\n  {_SHUT}"
        return f"{done['removed']} is removed: what it signs is refused from now on{left}"

    show_answer(options, answer, show)
    return 0


_SHUT = "there is no client, and everybody has to sign: `tempos ctl client open` lets others in"


def _list(options: argparse.Namespace) -> int:
    show_answer(options, Api.of(options).get("/v1/clients"), _all)
    return 0


def _open(options: argparse.Namespace) -> int:
    return _sign(options, signed=False)


def _close(options: argparse.Namespace) -> int:
    return _sign(options, signed=True)


def _sign(options: argparse.Namespace, *, signed: bool) -> int:
    show_answer(options, ask(lambda: Api.of(options).post("/v1/signing", {"signed": signed})), _all)
    return 0


def _all(answer: Any) -> str:
    clients = answer["clients"]
    if not clients:
        return (
            _SHUT if answer["signed"] else "there is no client: whoever reaches the broker may ask, unsigned"
        )
    rows: list[tuple[str, ...]] = [
        (
            each["id"], ", ".join(each["publish"]) or "-", ", ".join(each["subscribe"]) or "-",
            "by the file" if each["origin"] == "file" else "at run time" if each["durable"] else "for now",
        )
        for each in clients
    ]  # fmt: skip
    return "\n".join(line[2:] for line in table(("id", "may publish to", "may subscribe to", "made"), rows))


def _one(client: Any) -> str:
    ends = "" if client["durable"] else "\n  it ends with this broker, which keeps no state (state.file)"
    rights = "; ".join(
        f"may {right} to {', '.join(client[right]) or 'nothing'}" for right in ("publish", "subscribe")
    )
    return f"{client['id']}: {rights}{ends}"


def _address(client: str) -> str:
    return f"/v1/clients/{quote(client, safe='')}"
