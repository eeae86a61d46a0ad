"""What a Controller says of its platform, for `tempos doctor`: it judges that all the time.

Where nobody said that there is a Controller, and none answers at the usual address, there is nothing to say.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from tempos.doctor.findings import Area, Asked, Check, Severity, Tried
from tempos.doctor.serving import PAST
from tempos.errors import LocalError, RemoteError, one_line
from tempos.session.place import api_at
from tempos_controller.commands.access import DEFAULT, api_of
from tempos_controller.config.model import CONTROLLER_PORT
from tempos_controller.watch.findings import CHECKS

#: Seconds.
_PATIENCE = 5.0
_CONTROLLER = Check(
    "TD600", "Controller", Severity.WARNING, means="its workflows are not looked at", fix="tempos workflow ls"
)


def gather(asked: Asked) -> Iterator[Tried]:
    """Ask the Controller, if there is one."""
    named = asked.controller or os.environ.get("TEMPOS_CONTROLLER", "")
    url = named or DEFAULT
    try:
        url = api_at(url, CONTROLLER_PORT)
        file = asked.controller_token_file or None
        api = api_of(url, file, _PATIENCE, option="--controller-token-file")
        status = api.get("/v1/status")
    except (LocalError, RemoteError) as error:
        if named or getattr(error, "status", None) is not None:
            yield Tried("TD600", False, one_line(error), url)
        return
    try:
        found = [_controller(status, url), *map(_wrong, status["wrong"])]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        yield Tried("TD600", False, f"its status is not of this version: {error!r}", url)
        return
    yield from found


def _controller(status: Mapping[str, Any], url: str) -> Tried:
    cause = (
        f"{status['name']!r}, tempos {status['version']}, process {status['pid']}: {status['workflows']} "
        f"workflows, {status['functions']} functions, {status['triggers']} triggers"
    )
    if not status["ready"]:
        return Tried(
            "TD600", False, f"{cause}; not ready", url, means="not all that is wanted is in force",
            fix="tempos platform plan",
        )  # fmt: skip
    return Tried("TD600", True, cause, url)


#: What was counted and stays so, once nothing has come to it for so long.
_PAST = Check("TD611", "past", Severity.NOTE, means="it is over; the account keeps count")
_COUNTED = {each.code: each for each in CHECKS if each.code in ("TD604", "TD605", "TD610")}


def _wrong(each: Mapping[str, Any]) -> Tried:
    """What it found, and since when; or when it happened last."""
    moment = datetime.fromtimestamp(each["since"] if each["now"] else each["changed"])
    when = f"{'since' if each['now'] else 'last at'} {moment:%Y-%m-%d %H:%M:%S}"
    cause, check = f"{each['cause']} ({when})", _COUNTED.get(each["code"])
    if check is not None and time.time() - each["changed"] >= PAST:
        cause = f"{check.code} {check.name}: {cause}"
        return Tried(_PAST.code, False, cause, each["subject"], fix=each["fix"] or check.fix)
    return Tried(each["code"], False, cause, each["subject"], fix=each["fix"])


PLATFORM = Area("platform", (_CONTROLLER, *CHECKS, _PAST), lambda asked: tuple(gather(asked)))
