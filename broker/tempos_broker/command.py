"""The broker's commands: ``tempos broker`` and ``tempos config``.

Each function adds one command to the parser of ``tempos`` and sets ``run``, which takes the parsed
options and returns the exit code. What a command needs is imported when it runs: ``tempos --help``
must not pay for it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tempos._files import write_whole
from tempos.cli.api import Api, add_api
from tempos_daemon import logs
from tempos_daemon.entry import wait_for_configuration

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


_BROKER_EXAMPLES = """\
examples:
  tempos broker -c config/broker.toml
        serve as the file says; as root with the fast path, otherwise without
  tempos broker -c config/broker.toml --log-level debug
        the same, and tell more
  tempos config check config/broker.toml
        only find out whether the file is sound

Prints one line that begins with "ready" when every socket is bound and every program attached.
Stops cleanly, within 5 seconds. On SIGTERM it leaves the fast path to the next broker of its name,
as a restart needs it, unless fastpath.on_stop says otherwise; SIGUSR2 always does, Ctrl-C never.
Before it is ready none of them takes down what an earlier broker left.
SIGHUP reads the file again.
"""

_CONFIG_EXAMPLES = """\
examples:
  tempos config check config/broker.toml
  tempos config check --json config/broker.toml
  tempos config import addresses.toml -o broker.toml
  tempos config dump config/broker.toml > whole.toml
"""

_CHECK_EXAMPLES = """\
examples:
  tempos config check config/broker.toml
        config/broker.toml: ok, 3 topics, 2 static members
  tempos config check --json config/broker.toml
        the same for scripts: {"file", "ok", "topics", "static_members", "problems"}

Every fault of the file is told at once, on standard error, with the key path, the value found and
what is allowed. Exit code 0 if the file is sound, 1 if not.
"""

_IMPORT_EXAMPLES = """\
Turns a list of topics by number, each with the addresses of its subscribers ([[topic]] topic_value,
[[topic.address]] ip, mac), into the broker's own format. The broker reads such a file directly, too;
importing it is for those who want names, classes or groups.

examples:
  tempos config import addresses.toml
        print it
  tempos config import addresses.toml -o broker.toml
        write it to a file; what was in that file is replaced
"""


_DUMP_EXAMPLES = """\
Topics can be made while a broker runs: they are in its state, not in its file. This writes them as a file has
them, each marked by a comment. What stands in the file as it was made is the file's from the next reload on.
Clients that were made so come as comments, with their rights and without their keys, which no broker tells.

examples:
  tempos config dump >> broker.toml && tempos reload
        put what the running broker was told into its file
  tempos config dump broker.toml > whole.toml
        the file and what stands beside it, as one; comments of the file are not in it
  tempos config dump --state ~/.local/state/tempos/default/state
        of a broker that does not run
"""


def broker(subparsers: Subparsers) -> None:
    """Add ``tempos broker``."""
    parser = subparsers.add_parser(
        "broker",
        help="run a broker",
        description="Run a broker until it is told to stop.",
        epilog=_BROKER_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="FILE", required=True, help="the configuration, TOML")
    parser.add_argument(
        "--portable",
        action="store_true",
        help="serve the slow path through asyncio's datagram transport, without the batched system calls",
    )
    logs.add_options(parser, "warning")
    parser.set_defaults(run=_run_broker)


def config(subparsers: Subparsers) -> None:
    """Add ``tempos config check``, ``tempos config import`` and ``tempos config dump``."""
    parser = subparsers.add_parser(
        "config",
        help="check, convert or write a configuration",
        description="Check a configuration, convert one, or write one, without starting anything.",
        epilog=_CONFIG_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="tell whether a file is sound, or all that is wrong with it",
        epilog=_CHECK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("file", metavar="FILE", help="the configuration, TOML")
    check.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    check.set_defaults(run=_run_check)
    convert = actions.add_parser(
        "import",
        help="convert a file of topic numbers and addresses",
        epilog=_IMPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("file", metavar="FILE", help="the file to convert, TOML")
    convert.add_argument("-o", "--output", metavar="OUT", help="write to this file (default: print)")
    convert.set_defaults(run=_run_import)
    dump = actions.add_parser(
        "dump",
        help="write what was made at run time, topics above all, as a configuration has it",
        epilog=_DUMP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    dump.add_argument(
        "file", metavar="FILE", nargs="?", help="a configuration to write them into (default: none)"
    )
    dump.add_argument(
        "--state", metavar="FILE", help="take them from this state file instead of a running broker"
    )
    add_api(dump)
    dump.set_defaults(run=_run_dump)


def _run_broker(options: argparse.Namespace) -> int:
    # Before the broker's modules are read, which takes a while.
    wait_for_configuration()
    from tempos_broker.__main__ import run

    return run(options)


def _run_check(options: argparse.Namespace) -> int:
    from tempos import ConfigError
    from tempos_broker.config import load

    topics = members = 0
    problems: list[str] = []
    try:
        found = load(options.file)
    except ConfigError as error:
        problems = error.problems
    else:
        topics = len(found.topics)
        members = sum(len(topic.members) for topic in found.topics)
    if options.json:
        report = {
            "file": options.file,
            "ok": not problems,
            "topics": topics,
            "static_members": members,
            "problems": problems,
        }
        print(json.dumps(report, indent=2))
    elif problems:
        print("\n".join(problems), file=sys.stderr)
    else:
        from tempos_daemon.schema import count

        print(f"{options.file}: ok, {count(topics, 'topic')}, {count(members, 'static member')}")
    return 1 if problems else 0


def _run_import(options: argparse.Namespace) -> int:
    from tempos import ConfigError
    from tempos_broker.config import dump, parse
    from tempos_broker.config.load import Format, format_of
    from tempos_daemon.toml import read_text

    try:
        text = read_text(options.file)
        if format_of(text, options.file) is Format.OWN:
            raise ConfigError(
                [f"{options.file}: has no topic_value: not of the format to convert, nothing was written"]
            )
        converted = dump(parse(text, options.file))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if options.output is None:
        sys.stdout.write(converted)
        return 0
    try:
        write_whole(Path(options.output), converted.encode())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"tempos config import: {options.output} cannot be written: {reason}", file=sys.stderr)
        return 1
    return 0


def _run_dump(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from tempos import ConfigError, RemoteError
    from tempos_broker.clients.former import DEMANDED
    from tempos_broker.clients.former import MADE as MADE_CLIENT
    from tempos_broker.config import ClientConfig, Origin, dump, load
    from tempos_broker.config.clients import read_client
    from tempos_broker.config.dump import dump_rights, dump_topic
    from tempos_broker.config.topics import ANYWHERE, read_topic
    from tempos_broker.lives.store import things_in
    from tempos_broker.topics.catalogue import merged
    from tempos_broker.topics.former import MADE

    try:
        if options.state is not None:
            state = Path(options.state)
            documents = list(things_in(state, MADE).values())
            stored = things_in(state, MADE_CLIENT)
            clients = [read_client(each) for name, each in stored.items() if name != DEMANDED]
        else:
            answer = Api.of(options).get(f"/v1/options?origin={Origin.RUN_TIME.value}")
            documents = [each["options"] for each in answer]
            clients = [
                ClientConfig(each["id"], b"", tuple(each["publish"]), tuple(each["subscribe"]))
                for each in Api.of(options).get("/v1/clients")["clients"]
                if each["origin"] == Origin.RUN_TIME.value
            ]
        rights = dump_rights(clients)
        made = [replace(read_topic(each, ANYWHERE), origin=Origin.RUN_TIME) for each in documents]
        if options.file is None:
            sys.stdout.write("\n".join([*map(dump_topic, made), *filter(None, [rights])]))
            return 0
        config = load(options.file)
        whole = dump(replace(config, topics=merged(config, made)))
        sys.stdout.write("\n".join(filter(None, [whole, rights])))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyError, TypeError) as error:
        raise RemoteError(f"the answer of {options.api} is not of this version: {error!r}") from error
    return 0
