"""Configs side by side: a checkpoint's and another's, or those that an implementation holds."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.run.modules import modules_of


@dataclass(frozen=True)
class ConfigKey:
    """One key of a config, with the value on either side."""

    key: str
    here: Any
    there: Any

    @property
    def differs(self) -> bool:
        """Whether the two sides have different values."""
        return bool(self.here != self.there)


@dataclass(frozen=True)
class SideBySide:
    """One config beside another, differences first, else in the order of the keys."""

    part: str
    other: str
    settings: list[ConfigKey]

    @property
    def differences(self) -> list[ConfigKey]:
        """The settings that differ."""
        return [setting for setting in self.settings if setting.differs]


def beside_checkpoint(checkpoint: Checkpoint, against: Checkpoint) -> list[SideBySide]:
    """Both configs of `checkpoint` beside those of `against`."""
    there = _configs(against)
    return [_compared(part, against.origin, here, there[part]) for part, here in _configs(checkpoint).items()]


def beside_implementation(checkpoint: Checkpoint, implementation: str, adapter: object) -> list[SideBySide]:
    """The configs of `checkpoint` beside those that modules of the implementation hold as `config`.

    Only keys of the same name can be compared; a config of an implementation's own design may share few.
    """
    ours = _configs(checkpoint)
    theirs: dict[str, Mapping[str, Any]] = {}
    for outermost in modules_of(adapter).values():
        for module in outermost.modules():
            held = _mapping(getattr(module, "config", None))
            part = max(ours, key=lambda name: _shared(ours[name], held))
            if _shared(ours[part], held) > _shared(ours[part], theirs.get(part, {})):
                theirs[part] = held
    return [
        _compared(part, implementation, {key: value for key, value in ours[part].items() if key in held}, held)
        for part, held in theirs.items()
    ]


def _shared(here: Mapping[str, Any], there: Mapping[str, Any]) -> int:
    return sum(key in there for key in here)


def _compared(part: str, other: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> SideBySide:
    settings = [ConfigKey(key, value, _plain(there[key])) for key, value in here.items()]
    return SideBySide(part, other, sorted(settings, key=lambda setting: not setting.differs))


def _configs(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    return {
        component: {key: _plain(value) for key, value in config.items()}
        for component, config in checkpoint.geometry.to_json().items()
    }


def _mapping(config: object) -> Mapping[str, Any]:
    """A config of any make (dataclass, mapping, plain object) as a mapping."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return config if isinstance(config, Mapping) else getattr(config, "__dict__", {})


def _plain(value: Any) -> Any:
    """Sequences of any make as lists, so that they compare by their values."""
    return list(value) if hasattr(value, "__iter__") and not isinstance(value, str | Mapping) else value
