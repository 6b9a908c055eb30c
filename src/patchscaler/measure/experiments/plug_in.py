"""Table 3: PGS in another diffusion upscaler, against that pipeline with all steps for every tile."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from patchscaler.engines.torch import TorchEngine
from patchscaler.errors import ConfigError
from patchscaler.integrations.diffusers.output import PatchScalerOutput
from patchscaler.integrations.frame import Coarse, Sampling, Upscaled
from patchscaler.integrations.hub import adapter_for, load_backbone
from patchscaler.measure.experiments.catalogue import PLUG_IN
from patchscaler.measure.experiments.inputs import Sample, read_samples
from patchscaler.measure.experiments.measuring import (
    JUDGE,
    Measured,
    Notify,
    Way,
    compare_ways,
    difference,
    judges,
    load_model,
    summary,
)
from patchscaler.measure.experiments.record import Record, Table, Verdict, weights_digest
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.speed.child import resolve_dtype
from patchscaler.pgs import GroupConfig
from patchscaler.upscaler import Upscaler

PAPER = GroupConfig()  # thresholds, start times and steps
EVERY = GroupConfig(gammas=(), taus=PAPER.taus[-1:], steps=PAPER.steps[-1:])  # one group, the hard patches'
UNIFORM, ADAPTIVE, COARSE = "every tile from 1000 in 20 steps", "PGS", "coarse picture alone"


class Borrowed(NamedTuple):
    """The other pipeline, its adapter, and the model of ours whose restorer makes the coarse pictures."""

    pipe: Any
    adapter: Callable[..., Upscaled]
    upscaler: Upscaler


def run(setting: Setting, notify: Notify = lambda line: None) -> Record:
    """All ways include the restorer's coarse picture, from which they start.

    Raises ConfigError without a backbone; WeightsError, ConfigError as `load_backbone`.
    """
    if setting.backbone is None:
        raise ConfigError(f"{PLUG_IN} runs another diffusers pipeline: name it with --backbone ID_OR_DIR")
    dtype = resolve_dtype(setting.dtype, setting.device)
    pipe, adapter = load_backbone(setting.backbone, setting.device, dtype, setting.backbone_style)
    borrowed = Borrowed(pipe, adapter, Upscaler(engine=TorchEngine(load_model(setting).parts)))
    samples, metrics = read_samples(setting), judges(setting)
    ways = {
        UNIFORM: _way(borrowed, setting, EVERY),
        ADAPTIVE: _way(borrowed, setting, PAPER),
        COARSE: _way(borrowed, setting, None),
    }
    tiles: dict[str, Counter[int]] = {name: Counter() for name in ways}

    def count(sample: Sample, name: str, output: PatchScalerOutput, result: torch.Tensor) -> None:
        tiles[name].update(output.groups.flatten().tolist())

    found = compare_ways(samples, ways, metrics, notify, count)
    record = Record(
        PLUG_IN,
        setting,
        _settings(setting, pipe),
        [f"{sample.name} ({sample.condition})" for sample in samples],
        [summary("The same pictures, all from the coarse one", found, metrics), _work(found, tiles)],
    )
    name = f"{record.settings['pipeline']} as {record.settings['style']}"
    ran = f"PGS (8, 14, 20 steps) in {name} against 20 for every tile, {len(samples)} pictures"
    record.verdicts = _verdicts(found, tiles, ran)
    record.plot = _plot(found)
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

    def way(sample: Sample) -> PatchScalerOutput:
        restored = borrowed.upscaler(sample.lr[0], steps=(0, 0, 0), seed=setting.seed)
        coarse, report = Coarse.of(restored), restored.report
        if groups is None:
            nothing = torch.zeros(0, 0, dtype=torch.int64)
            return PatchScalerOutput(coarse.pixels, None, coarse.confidence, nothing, [], report)
        latents = setting.batch_size * borrowed.upscaler.engine.model.patch**2
        sampling = Sampling(groups=groups, batch_latents=latents, seed=setting.seed)
        with report.stage("sample"):
            made = borrowed.adapter(borrowed.pipe, coarse, sampling)
            pixels = made.pixels.cpu()  # a GPU has finished when they are here
        report.patch_steps = int(made.evaluations.sum())
        return PatchScalerOutput(pixels, None, coarse.confidence, made.groups, made.patch_boxes, report)

    return way


def _per_tile(measured: Measured, tiles: Counter[int]) -> float:
    """Evaluations of the pipeline's network, counted as it is asked."""
    return measured.total("patch_steps") / tiles.total()


def _work(found: dict[str, Measured], tiles: dict[str, Counter[int]]) -> Table:
    columns = [("", 0), *((f"{name} tiles", 0) for name in PAPER.names), ("evaluations per tile", 2)]
    uniform, adaptive = tiles[UNIFORM], tiles[ADAPTIVE]
    rows: list[list[Any]] = [
        [UNIFORM, None, None, uniform.total(), _per_tile(found[UNIFORM], uniform)],
        [ADAPTIVE, *(adaptive[group] for group in range(len(PAPER.steps))), _per_tile(found[ADAPTIVE], adaptive)],
    ]
    return Table("Tiles of all pictures, and what they cost", columns, rows)


def _verdicts(found: dict[str, Measured], tiles: dict[str, Counter[int]], ran: str) -> dict[str, Verdict]:
    uniform, adaptive, coarse = (found[name] for name in (UNIFORM, ADAPTIVE, COARSE))
    slower = difference(adaptive.values["seconds"], uniform.values["seconds"])
    one, other = (_per_tile(found[name], tiles[name]) for name in (ADAPTIVE, UNIFORM))
    worse = difference(adaptive.values[JUDGE], uniform.values[JUDGE])
    return {
        "plug-in": Verdict(
            slower.falls if one < other else False,
            f"{adaptive.mean('seconds'):.2f} s against {uniform.mean('seconds'):.2f} s a picture ({slower}), "
            f"{one:.2f} evaluations per tile against {other:.2f}",
            ran,
        ),
        "plug-in-quality": Verdict(
            worse.falls,
            f"LPIPS {adaptive.mean(JUDGE):.4f} against {uniform.mean(JUDGE):.4f} ({worse}); "
            f"the coarse picture alone {coarse.mean(JUDGE):.4f}",
            ran,
        ),
    }


def _plot(found: dict[str, Measured]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, measured), marker in zip(found.items(), "so^", strict=True):
        axes.plot(measured.mean("seconds"), measured.mean(JUDGE), marker, markersize=10, label=name)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds per picture")
    axes.set_ylabel("LPIPS (alex), lower is better")
    axes.legend(fontsize="small")
    return figure
