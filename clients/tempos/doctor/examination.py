"""Going through all areas there are: this package's own, and those that other packages register."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tempos.doctor.archive import Gathered
from tempos.doctor.findings import BAD, Area, Asked, Check, Finding, Severity, Tried
from tempos.doctor.host import HOST
from tempos.doctor.installation import INSTALLATION
from tempos.doctor.serving import SERVING
from tempos.errors import one_line

if TYPE_CHECKING:
    from importlib import metadata

GROUP = "tempos.doctor"
_AREA = Check("TD009", "area", Severity.WARNING, means="what it would have looked at is not looked at")


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings, by area in the order of looking, and on what machine."""

    machine: dict[str, str]
    asked: Asked
    areas: tuple[tuple[str, tuple[Finding, ...]], ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those of all areas."""
        return tuple(finding for _, findings in self.areas for finding in findings)

    @property
    def bad(self) -> bool:
        """Whether anything is worse than a note."""
        return any(finding.severity in BAD for finding in self.findings)


def areas() -> list[Area]:
    """Every area of this installation, by the codes of their checks."""
    found = [INSTALLATION, HOST, SERVING, *(_load(point) for point in _points())]
    return sorted(found, key=lambda area: area.checks[0].code)


def examine(found: Iterable[Area], asked: Asked) -> Examination:
    """Look at each area. Raises :class:`tempos.TemposError` for what cannot be asked for."""
    every = list(found)
    return analyse(every, gather(every, asked))


def gather(found: Iterable[Area], asked: Asked) -> Gathered:
    """Try what each area is about, on this machine, and judge nothing."""
    every = list(found)
    for area in every:
        if area.prepare is not None:
            asked = area.prepare(asked)
    return Gathered(_machine(), asked, tuple((area.name, _tried(area, asked)) for area in every))


def _tried(area: Area, asked: Asked) -> tuple[Tried, ...]:
    try:
        return tuple(area.gather(asked))
    except Exception as error:  # noqa: BLE001 - one area that fails must not hide what the others find
        # Who asks by a script must not take it for well.
        return (Tried(_AREA.code, False, f"{area.name}: {one_line(error) or repr(error)}"),)


def analyse(found: Iterable[Area], gathered: Gathered) -> Examination:
    """Judge what was gathered, on whatever machine; what no check here is about is told as unknown."""
    checks = {check.code: check for area in found for check in area.checks}
    judged = ((name, tuple(_in_order(checks, tried, gathered.asked))) for name, tried in gathered.tried)
    areas = tuple((name, findings) for name, findings in judged if findings)
    return Examination(gathered.machine, gathered.asked, areas)


def _in_order(checks: Mapping[str, Check], tried: Iterable[Tried], asked: Asked) -> list[Finding]:
    known = {**checks, _AREA.code: _AREA}
    every = [known.get(each.check) or Check(each.check, "not known here", Severity.UNKNOWN) for each in tried]
    found = (check.finding(each, asked) for check, each in zip(every, tried, strict=True))
    return sorted(found, key=lambda finding: finding.code)


def _load(point: metadata.EntryPoint) -> Area:
    try:
        area = point.load()
        assert isinstance(area, Area), f"{point.value} is no area but {type(area).__name__}"
        return area
    except Exception as error:  # noqa: BLE001 - foreign code; whatever it is, it has to be told
        tried = Tried(_AREA.code, None, one_line(error))
        return Area(point.name, (_AREA,), lambda asked: (tried,))


def _points() -> Sequence[metadata.EntryPoint]:
    from importlib import metadata

    return tuple(metadata.entry_points(group=GROUP))


def _machine() -> dict[str, str]:
    return dict(_facts())


def _facts() -> Iterator[tuple[str, str]]:
    from tempos import __version__

    yield "tempos", __version__
    yield "python", platform.python_version()
    yield "system", platform.system()
    yield "kernel", platform.release()
    yield "machine", platform.machine()
    try:
        yield "distribution", platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        yield "distribution", ""
    try:
        yield "user", getpass.getuser()
    except (KeyError, OSError):
        yield "user", str(os.getuid())
