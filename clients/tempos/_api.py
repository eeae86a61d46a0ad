"""What everybody who asks the broker's control API knows of it: where it is, and what its refusals say."""

from __future__ import annotations

import json

from tempos._abi import API_PORT
from tempos.errors import ApiRefused, RemoteError, one_line

DEFAULT = f"http://127.0.0.1:{API_PORT}"

#: The header of every answer that says which daemon gives it: broker, controller, trigger or invoker.
DAEMON = "Tempos-Daemon"
#: The header of every answer with the number of the process that gives it.
PROCESS = "Tempos-Process"

#: All that is said of an address that an API does not have.
_NO_SUCH_ADDRESS = (404, "Not Found")


def refusal(url: str, status: int, reason: str, body: bytes, whose: str = "broker") -> ApiRefused:
    """An error answer: the words of a problem document (RFC 9457) where it is one.

    ``whose``: the daemon that was asked; what has no such address is most likely another one.
    """
    try:
        document = json.loads(body)
        detail, problems = document["detail"], document.get("problems", ())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        detail, problems = None, ()
    if not isinstance(detail, str):
        return ApiRefused(status, f"{url} answers {status} {reason}")
    if (status, detail) == _NO_SUCH_ADDRESS:
        return ApiRefused(status, f"{url} answers 404 {detail}: is that the API of the {whose}?")
    return ApiRefused(status, detail, [each for each in problems if isinstance(each, str)])


def other_daemon(url: str, answers: str | None, whose: str = "broker") -> RemoteError | None:
    """The error that another daemon than ``whose`` is at this address, if its answer has a :data:`DAEMON`."""
    if answers is None or answers.lower() == whose.lower():
        return None
    return RemoteError(
        f"{url} is the API of the {one_line(answers)[:20]}, and not of the {whose}: say where that is"
    )


def no_answer(url: str, why: object, whose: str = "broker") -> RemoteError:
    """That nobody answered there, and what that may be due to; ``whose``: the daemon that should have."""
    hint = _hint(url) if whose == "broker" else ""
    return RemoteError(f"no answer from {url}: {why}. Is the {whose} running, and its API there?{hint}")


def _hint(url: str) -> str:
    """What to do in a VRF, and where a broker of this very installation could have no API."""
    from urllib.parse import urlsplit

    from tempos.doctor.installation import lacking_packages
    from tempos.doctor.vrf import bound_to, remedy, situation

    if device := bound_to():
        told, loopback = situation(device), remedy(device, "127.0.0.1")
        return f" {told[0].upper()}{told[1:]}: the broker must be in there, too, and loopback: {loopback}"
    if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1") or not (
        lacking := lacking_packages("broker")
    ):
        return ""
    return (
        f" A broker of this installation has none, for it lacks {', '.join(lacking)}: "
        "pip install 'tempos[broker]'"
    )
