"""Table 3: PGS in another diffusion upscaler, against that pipeline with all steps for every tile."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from patchscaler.engines.torch import TorchEngine
from patchscaler.errors import ConfigError
from patchscaler.imaging.files import read_picture
from patchscaler.integrations.diffusers.output import PatchScalerOutput
from patchscaler.integrations.frame import Coarse, Sampling, Upscaled
from patchscaler.integrations.hub import adapter_for, load_backbone
from patchscaler.measure.experiments.catalogue import PLUG_IN
from patchscaler.measure.experiments.plots import new_axes, scatter
from patchscaler.measure.experiments.record import Record, Table, Verdict, weights_digest
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.experiments.trial import Found, Trial
from patchscaler.measure.intervals import difference
from patchscaler.measure.models import PAPER, Enlarged, Way, enlarged, resolve_dtype
from patchscaler.measure.rows import Row
from patchscaler.pgs import GroupConfig
from patchscaler.upscaler import Upscaler

EVERY = GroupConfig(gammas=(), taus=PAPER.taus[-1:], steps=PAPER.steps[-1:])  # one group, the hard patches'
UNIFORM, ADAPTIVE, COARSE = "every tile from 1000 in 20 steps", "PGS", "coarse picture alone"


class Borrowed(NamedTuple):
    """The other pipeline, its adapter, and the model of ours whose restorer makes the coarse pictures."""

    pipe: Any
    adapter: Callable[..., Upscaled]
    upscaler: Upscaler


def run(trial: Trial) -> Record:
    """All ways include the restorer's coarse picture, from which they start.

    Raises ConfigError without a backbone; WeightsError, ConfigError as `load_backbone`.
    """
    setting = trial.setting
    if setting.backbone is None:
        raise ConfigError(f"{PLUG_IN} runs another diffusers pipeline: name it with --backbone ID_OR_DIR")
    dtype = resolve_dtype(setting.dtype, setting.device)
    pipe, adapter = load_backbone(setting.backbone, setting.device, dtype, setting.backbone_style)
    borrowed = Borrowed(pipe, adapter, Upscaler(engine=TorchEngine(trial.model.parts)))
    ways = {
        UNIFORM: _way(borrowed, setting, EVERY),
        ADAPTIVE: _way(borrowed, setting, PAPER),
        COARSE: _way(borrowed, setting, None),
    }
    tiles: dict[str, Counter[int]] = {name: Counter() for name in ways}

    def count(stem: str, name: str, result: Enlarged) -> None:
        tiles[name].update(result.output.groups.flatten().tolist())

    found = trial.compare(ways, count)
    tables = [trial.summary("The same pictures, all from the coarse one", found), _work(found, tiles)]
    record = trial.record(PLUG_IN, _settings(setting, pipe), tables)
    name = f"{record.settings['pipeline']} as {record.settings['style']}"
    ran = f"PGS (8, 14, 20 steps) in {name} against 20 for every tile, {trial.count} pictures"
    record.verdicts = _verdicts(trial, found, tiles, ran)
    record.plot, axes = new_axes()
    points = {name: [(row.mean("seconds"), row.mean(trial.judge.name))] for name, row in found.items()}
    scatter(axes, points, "seconds per picture", f"{trial.judge.name}, {trial.judge.better} is better")
    return record


def _settings(setting: Setting, pipe: Any) -> dict[str, Any]:
    """What was borrowed; the weights' hash for a folder, whose name alone says little."""
    folder = Path(str(setting.backbone))
    return {
        "pipeline": type(pipe).__name__,
        "style": adapter_for(type(pipe).__name__, setting.backbone_style)[0],
        "scheduler": type(pipe.scheduler).__name__,
        "pipeline_weights_sha256": weights_digest(folder) if folder.is_dir() else None,
        "gammas": list(PAPER.gammas),
        "taus": list(PAPER.taus),
        "steps": list(PAPER.steps),
    }


def _way(borrowed: Borrowed, setting: Setting, groups: GroupConfig | None) -> Way:
    """The borrowed pipeline with these groups; None: the coarse picture, no tile."""

    def way(path: Path) -> Enlarged:
        restored = borrowed.upscaler(read_picture(path), steps=(0, 0, 0), seed=setting.seed)
        coarse, report = Coarse.of(restored), restored.report
        if groups is None:
            nothing = torch.zeros(0, 0, dtype=torch.int64)
            return _enlarged(PatchScalerOutput(coarse.pixels, None, coarse.confidence, nothing, [], report))
        batch = setting.batch_size * borrowed.upscaler.engine.model.patch**2
        with report.stage("sample"):
            made = borrowed.adapter(borrowed.pipe, coarse, Sampling(groups, batch_latents=batch, seed=setting.seed))
            pixels = made.pixels.cpu()  # a GPU has finished when they are here
        report.patch_steps = int(made.evaluations.sum())
        return _enlarged(PatchScalerOutput(pixels, None, coarse.confidence, made.groups, made.patch_boxes, report))

    return way


def _enlarged(output: PatchScalerOutput) -> Enlarged:
    return enlarged(output, sum(stage["seconds"] for stage in output.report.stages.values()))


def _per_tile(row: Row, tiles: Counter[int]) -> float:
    """Evaluations of the pipeline's network, counted as it is asked."""
    return row.total("patch_steps") / tiles.total()


def _work(found: Found, tiles: dict[str, Counter[int]]) -> Table:
    columns = [("", 0), *((f"{name} tiles", 0) for name in PAPER.names), ("evaluations per tile", 2)]
    uniform, adaptive = tiles[UNIFORM], tiles[ADAPTIVE]
    rows: list[list[Any]] = [
        [UNIFORM, None, None, uniform.total(), _per_tile(found[UNIFORM], uniform)],
        [ADAPTIVE, *(adaptive[group] for group in range(len(PAPER.steps))), _per_tile(found[ADAPTIVE], adaptive)],
    ]
    return Table("Tiles of all pictures, and what they cost", columns, rows)


def _verdicts(trial: Trial, found: Found, tiles: dict[str, Counter[int]], ran: str) -> dict[str, Verdict]:
    uniform, adaptive, coarse = (found[name] for name in (UNIFORM, ADAPTIVE, COARSE))
    slower = difference(adaptive.column("seconds"), uniform.column("seconds"))
    one, other = (_per_tile(found[name], tiles[name]) for name in (ADAPTIVE, UNIFORM))
    return {
        "plug-in": Verdict(
            slower.falls if one < other else False,
            f"{adaptive.mean('seconds'):.2f} s against {uniform.mean('seconds'):.2f} s a picture ({slower}), "
            f"{one:.2f} evaluations per tile against {other:.2f}",
            ran,
        ),
        "plug-in-quality": Verdict(
            trial.gain(adaptive, uniform).rises,
            f"{trial.figures(adaptive, uniform)}; the coarse picture alone {coarse.mean(trial.judge.name):.4f}",
            ran,
        ),
    }
