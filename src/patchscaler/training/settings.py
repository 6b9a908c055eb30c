"""Run settings: one TOML file per run, read into dataclasses; unknown keys are refused by name."""

import dataclasses
import json
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from patchscaler.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What every training run has in common.

    folder             run folder: settings, log, sample sheets, checkpoint, exported weights
    steps              optimiser steps in all; raising it later continues the run
    batch_size         samples of one device at a time; accumulation: so many batches make one optimiser step
    decay_steps        the last so many steps lower the learning rate linearly to 0 (warmup-stable-decay)
    max_hours          stop (with a checkpoint) after so many hours of this call; None: no limit
    checkpoint_minutes time between checkpoints
    keep_every         steps after which a checkpoint and the weights are kept in kept/STEP; 0: never
    best               "max FIGURE" or "min FIGURE" of the validation: the weights that are best by it are kept in best/
    precision          bf16, fp16 (GPUs without bfloat16, such as V100) or fp32
    gradient_checkpointing  activations are computed again instead of kept: less memory, a third more arithmetic
    tracker            tensorboard, wandb or another one that accelerate knows; None: log.jsonl alone
    timeout_minutes    how long processes wait for another that indexes pictures, fills a cache or validates
    workers            data-loading processes; 0: in the training process
    """

    folder: str
    seed: int = 0
    steps: int = 100_000
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 5e-4
    warmup_steps: int = 200
    decay_steps: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    precision: str = "bf16"
    compile: bool = False
    gradient_checkpointing: bool = False
    workers: int = 1
    max_hours: float | None = None
    checkpoint_minutes: float = 10.0
    keep_every: int = 0
    best: str | None = None
    tracker: str | None = None
    timeout_minutes: float = 180.0
    log_every: int = 50
    validate_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"run.{name} {getattr(self, name)} must be at least 1")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ConfigError(f'run.precision "{self.precision}": choose fp32, bf16 or fp16')
        if self.best is not None and not re.fullmatch(r"(max|min) \w+", self.best):
            raise ConfigError(f'run.best "{self.best}": write "max FIGURE" or "min FIGURE", such as "max psnr_y"')


def read_toml(path: str | Path) -> dict[str, Any]:
    """The file's tables; ConfigError when it is missing or isn't TOML."""
    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such settings file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def with_values(table: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """The table with values given as on the command line: "run.steps=1000". Raises ConfigError.

    A value is read as TOML, and as text where it is none: pictures.folder=my/pictures needs no quotes.
    """
    changed = json.loads(json.dumps(table))
    for assignment in assignments:
        path, sign, text = assignment.partition("=")
        *tables, key = path.strip().split(".")
        if not sign or not key:
            raise ConfigError(f"--set {assignment}: write KEY=VALUE, such as run.steps=1000")
        place = changed
        for name in tables:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {assignment}: {name} is a value, not a table")
        try:
            place[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            place[key] = text.strip()
    return changed


def build(cls: type[T], table: dict[str, Any], where: str = "") -> T:
    """Dataclass `cls` from a TOML table, nested tables into nested ones. ConfigError names an unknown or wrong key."""
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(f"unknown key {where}{unknown[0]}; known: {', '.join(sorted(known))}")
    values = {key: _value(hints[key], value, f"{where}{key}") for key, value in table.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"[{where.rstrip('.') or 'settings'}] {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return build(typing.cast(type, option), value, f"{where}.")
        origin, inner = typing.get_origin(option) or option, typing.get_args(option)
        if origin is tuple and isinstance(value, list) and len(value) == len(inner):
            return tuple(_value(hint, v, f"{where}[{i}]") for i, (hint, v) in enumerate(zip(inner, value, strict=True)))
        if origin is dict and isinstance(value, dict):
            return {k: _value(inner[1], v, f"{where}.{k}") for k, v in value.items()}
        if origin is float and type(value) in (int, float):
            return float(value)
        if origin is typing.Any or origin is type(value):  # not isinstance: a bool is no int here
            return value
    raise ConfigError(f"{where} = {value!r} has the wrong type; expected {hint}")


# Settings that may change between the calls of one run.
_FREE = {
    f"run.{key}"
    for key in (
        "steps",
        "decay_steps",
        "max_hours",
        "checkpoint_minutes",
        "keep_every",
        "best",
        "tracker",
        "timeout_minutes",
        "gradient_checkpointing",
        "log_every",
        "validate_every",
        "workers",
        "compile",
    )
}


def check_settings(path: Path, settings: Any) -> None:
    """Records the settings at the first call, refuses others at the next ones (ConfigError).

    A setting that the record doesn't have, since it was begun by an older version, counts as its default.
    """
    now = json.loads(json.dumps(dataclasses.asdict(settings)))
    if path.exists():
        before, after = flat(_completed(json.loads(path.read_text()), settings)), flat(now)
        changed = [key for key in after | before if key not in _FREE and before.get(key) != after.get(key)]
        if changed:
            raise ConfigError(
                f"{path.parent} was begun with another {changed[0]}; give another run.folder or put the old value back"
            )
    path.write_text(json.dumps(now, indent=2))


def _completed(record: dict[str, Any], settings: Any) -> dict[str, Any]:
    """The record with the defaults of those settings that it doesn't have."""
    full = dict(record)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in full:
            if field.default is not dataclasses.MISSING:
                full[field.name] = json.loads(json.dumps(field.default))
            elif field.default_factory is not dataclasses.MISSING:
                made = field.default_factory()
                full[field.name] = json.loads(json.dumps(made, default=dataclasses.asdict))
        elif dataclasses.is_dataclass(value) and isinstance(full[field.name], dict):
            full[field.name] = _completed(full[field.name], value)
    return full


def flat(table: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return found
