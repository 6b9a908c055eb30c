"""Any option of inference varied by itself: number of groups, thresholds, start times, steps, overlap, K, memory, seed.

`--set KEY=V1,V2,...`, more than once; "/" stands between the numbers of one value: `--set gammas=0.95/0.75,0.9/0.6`.
What is trained is varied by models that were trained with it: `--set model=DIR1,DIR2`.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from patchscaler.errors import ConfigError
from patchscaler.imaging.geometry import Size
from patchscaler.measure.experiments.plots import gains, new_axes
from patchscaler.measure.experiments.record import Record, Table
from patchscaler.measure.experiments.setting import shown
from patchscaler.measure.experiments.trial import Found, Trial, steps_text
from patchscaler.measure.models import DEFAULT, NONE, PAPER, Enlarged, Way, with_memory_of, with_parts, with_top_k
from patchscaler.measure.pairing import read_pixels
from patchscaler.measure.rows import mean
from patchscaler.metrics.seams import measure_seams, patch_borders

FIRST = "the model as it is"
ALONE = "restorer alone"
GRID = 16  # px: of Patch-DiT's tokens, whose lines seams are compared with
Boxes = list[tuple[int, int, int, int]]
# Keys of training, and where they are set.
TRAINED = {"V": "sample_size of Patch-DiT, encoder and memory", "width": "width of Patch-DiT", "depth": "its depth"}


def groups_of(count: int) -> dict[str, Any]:
    """So many groups: thresholds, start times and steps evenly between the paper's ends; one: its hard patches'."""
    if count < 1:
        raise ConfigError(f"--set groups={count}: at least one group")
    shares = np.linspace(0, 1, count) if count > 1 else np.ones(1)
    inner = np.linspace(0, 1, count - 1) if count > 2 else np.full(count - 1, 0.5)
    taus, steps = (ends[0] + shares * (ends[-1] - ends[0]) for ends in (PAPER.taus, PAPER.steps))
    gammas = PAPER.gammas[0] + inner * (PAPER.gammas[-1] - PAPER.gammas[0])
    return {
        "gammas": tuple(gammas.round(4).tolist()),
        "taus": tuple(map(round, taus.tolist())),
        "steps": tuple(map(round, steps.tolist())),
    }


def _numbers(kind: type) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(kind(part) for part in text.split("/"))


# key -> a value's text -> what the model's parts and the call's options become
PARTS: dict[str, Callable[[Trial, str], Any]] = {
    "overlap": lambda trial, text: with_parts(trial.model, overlap=int(text)),
    "K": lambda trial, text: with_top_k(trial.model, int(text)),
    "memory": lambda trial, text: with_memory_of(trial.model, int(text)),
    "model": lambda trial, text: trial.load(text),
}
OPTIONS: dict[str, Callable[[str], dict[str, Any]]] = {
    "groups": lambda text: groups_of(int(text)),
    "gammas": lambda text: {"gammas": _numbers(float)(text)},
    "taus": lambda text: {"taus": _numbers(int)(text)},
    "steps": lambda text: {"steps": _numbers(int)(text)},
    "seed": lambda text: {"seed": int(text)},
    "denoise": lambda text: {"denoise": float(text)},
    "texture": lambda text: {"use_texture": bool(int(text))},
}


def parse_sets(texts: list[str]) -> dict[str, tuple[str, ...]]:
    """Values by key from "KEY=V1,V2". Raises ConfigError."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        if key in TRAINED:
            raise ConfigError(
                f"--set {text}: {key} is trained ({TRAINED[key]}): train models and name them, --set model=DIR1,DIR2"
            )
        if key not in PARTS | OPTIONS:
            raise ConfigError(f"--set {text}: choose a key of {', '.join((*OPTIONS, *PARTS))}")
        if key in found or not values:
            raise ConfigError(f"--set {text}: give each key once, with its values behind =")
        found[key] = tuple(values.split(","))
        if key == "model" and len({Path(folder).name for folder in found[key]}) < len(found[key]):
            raise ConfigError(f"--set {text}: two folders of one name; rename one")
    return found


def sweep(trial: Trial, key: str, values: tuple[str, ...], **options: Any) -> dict[str, Way]:
    """The model with each of the values. Raises ConfigError for a value that isn't one."""
    ways = {}
    for text in values:
        try:
            if key in PARTS:
                ways[shown(f"{key}={text}").replace("=", " = ", 1)] = trial.way(PARTS[key](trial, text), **options)
            else:
                ways[f"{key} = {text}"] = trial.way(**options | OPTIONS[key](text))
        except ValueError as error:
            raise ConfigError(f"--set {key}={text}: {error}") from error
    return ways


def run(trial: Trial) -> Record:
    """The paper's steps, and beside them the default's where the value leaves the steps open."""
    sets = parse_sets(list(trial.setting.sets))
    if not sets:
        raise ConfigError("ablation varies an option: name it with --set KEY=V1,V2, such as --set overlap=0,2,4")
    base = {"steps": PAPER.steps}
    ways: dict[str, Way] = {FIRST: trial.way(**base), ALONE: trial.way(steps=NONE.steps)}
    end = f", steps {steps_text(DEFAULT)}"
    ways[FIRST + end] = trial.way(steps=DEFAULT)
    for key, values in sets.items():
        ways |= sweep(trial, key, values, **base)
        if key not in ("groups", "steps", "taus"):
            ways |= {name + end: way for name, way in sweep(trial, key, values, steps=DEFAULT).items()}
    boxes: dict[str, dict[str, Boxes]] = {name: {} for name in ways}

    def look(stem: str, name: str, result: Enlarged) -> None:
        boxes[name][stem] = result.output.patch_boxes

    found = trial.compare(ways, look)
    record = trial.record(
        "ablation",
        {},
        [
            trial.summary("One option at a time, against the model as it is with the paper's steps", found),
            _seam_table(found, boxes),
        ],
    )
    record.plot, axes = new_axes(8, 1.5 + 0.35 * len(found))
    others = {name: trial.gain(row, found[FIRST]) for name, row in found.items() if name != FIRST}
    gains(axes, others, f"gain in {trial.judge.name} over the model as it is, steps {steps_text(PAPER.steps)}")
    return record


def seam_of(result: Path, alone: Path, boxes: Boxes) -> float:
    """Steepness at patch borders against other lines of the grid, over that of the restorer's own picture, which knows
    no patches; not a number where there is nothing to compare."""
    pixels, own = (read_pixels(path) for path in (result, alone))
    borders = patch_borders(boxes, Size(*pixels.shape[-2:]))
    try:
        return measure_seams(pixels, *borders, 1, GRID).ratio / measure_seams(own, *borders, 1, GRID).ratio
    except ValueError:
        return math.nan


def _seam_table(found: Found, boxes: Mapping[str, Mapping[str, Boxes]]) -> Table:
    rows: list[list[Any]] = []
    for name, row in found.items():
        if name == ALONE:
            continue
        ratios = [seam_of(path, found[ALONE].files[stem], boxes[name][stem]) for stem, path in row.files.items()]
        known = [ratio for ratio in ratios if math.isfinite(ratio)]
        rows.append([name, mean(known), max(known, default=None)])
    title = "Seams: steepness at patch borders against the grid's other lines, over the restorer's own (1: none)"
    return Table(title, [("", 0), ("mean", 3), ("largest", 3)], rows)
