"""What can be done to a part, as values with words for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tempos_controller.plan.wanted import Calls, Signals, StepDocument


@dataclass(frozen=True, slots=True)
class MakeTopic:
    """Have the broker make a topic."""

    name: str
    options: Mapping[str, Any]

    def words(self) -> list[str]:
        """What happens, a line each."""
        return [f"+ topic {self.name}: {_options(self.options)}"]


@dataclass(frozen=True, slots=True)
class ChangeTopic:
    """Have the broker change options of a topic; None: back to the default."""

    name: str
    changes: Mapping[str, Any]

    def words(self) -> list[str]:
        """What happens, a line each."""
        return [f"~ topic {self.name}: {_options(self.changes)}"]


@dataclass(frozen=True, slots=True)
class RemoveTopic:
    """Have the broker remove a topic, once what is on its way has arrived."""

    name: str

    def words(self) -> list[str]:
        """What happens, a line each."""
        return [f"- topic {self.name}"]


@dataclass(frozen=True, slots=True)
class PutCalls:
    """Give an invoker its next document."""

    node: str
    before: Calls
    after: Calls

    @property
    def upload(self) -> dict[str, str]:
        """Code that the invoker needs for it: hash -> name."""
        codes = [each["code"] for each in self.after.functions.values() if each.get("code")]
        return {code["sha256"]: code["name"] for code in codes}

    def words(self) -> list[str]:
        """What happens, a line each."""
        where = f"invoker {self.node}"
        lines = [f"{sign} {where}: function {name}{_function(after)}" for sign, name, after in
                 _difference(self.before.functions, self.after.functions)]  # fmt: skip
        lines += [f"{sign} {where}: step {'/'.join(key)}: {_step(step)}" for sign, key, step in
                  _difference(self.before.steps, self.after.steps)]  # fmt: skip
        return lines or [f"~ {where}: broker {_options(self.after.broker)}"]


@dataclass(frozen=True, slots=True)
class PutSignals:
    """Give a trigger its next document."""

    node: str
    before: Signals
    after: Signals

    def words(self) -> list[str]:
        """What happens, a line each."""
        where = f"trigger {self.node}"
        lines = [f"{sign} {where}: {each['kind']} {name} -> {each['topic']}" for sign, name, each in
                 _difference(self.before.endpoints, self.after.endpoints)]  # fmt: skip
        return lines or [f"~ {where}: broker {_options(self.after.broker)}"]


Action = MakeTopic | ChangeTopic | RemoveTopic | PutCalls | PutSignals


def _difference(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted(before.keys() | after.keys()):
        if key not in before:
            yield "+", key, after[key]
        elif key not in after:
            yield "-", key, before[key]
        elif before[key] != after[key]:
            yield "~", key, after[key]


def _options(options: Mapping[str, Any]) -> str:
    shown = {key: "***" if key == "key" else value for key, value in options.items()}
    return (
        ", ".join(f"{key} {_value(value)}" for key, value in shown.items()) or "as the broker's defaults are"
    )


def _value(value: Any) -> str:
    if value is None:
        return "as by default"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _function(options: Mapping[str, Any]) -> str:
    code = options.get("code")
    return f" ({options['mode']}{', {name} {sha256:.12}'.format(**code) if code else ''})"


def _step(step: StepDocument) -> str:
    result = f" -> {step['result']}" if step.get("result") else ""
    return f"{step['topic']} ({step['class']}) -> {step['function']}{result}"
