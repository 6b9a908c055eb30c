"""Ways of enlarging held against each other: the same pictures, in turns, figures of each picture kept."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from patchscaler.imaging.geometry import SCALE
from patchscaler.integrations.diffusers.output import PatchScalerOutput
from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
from patchscaler.measure.experiments.inputs import Sample
from patchscaler.measure.experiments.record import Table
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.speed.child import resolve_dtype
from patchscaler.metrics.choice import Metric, choose_metrics, load_metrics

JUDGE = "lpips_alex"  # decides the claims; falls as pictures get better
SIGNIFICANT = 2.0  # standard errors that a difference needs to count

Way = Callable[[Sample], PatchScalerOutput]
Notify = Callable[[str], None]


@dataclass
class Measured:
    """One way's figures, each a list with a value for every picture."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **figures: float) -> None:
        for name, value in figures.items():
            self.values.setdefault(name, []).append(float(value))

    def mean(self, name: str) -> float:
        known = [value for value in self.values[name] if math.isfinite(value)]
        return statistics.fmean(known) if known else math.nan

    def total(self, name: str) -> float:
        return sum(self.values[name])


class Difference(NamedTuple):
    """Mean of the pictures' differences, and its standard error; not a number for fewer than two."""

    mean: float
    error: float

    @property
    def rises(self) -> bool | None:
        """Above 0 by more than chance; None where chance isn't known."""
        return None if math.isnan(self.error) else self.mean > SIGNIFICANT * self.error

    @property
    def falls(self) -> bool | None:
        return Difference(-self.mean, self.error).rises

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.error:.4f}"


def difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """one - other, picture by picture; pictures without a value left out."""
    pairs = [a - b for a, b in zip(one, other, strict=True) if math.isfinite(a - b)]
    if len(pairs) < 2:
        return Difference(pairs[0] if pairs else math.nan, math.nan)
    return Difference(statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs)))


def load_model(setting: Setting) -> PatchScalerPipeline:
    """The setting's model on its device, in its dtype, with its threads. Raises WeightsError."""
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if setting.threads:
        torch.set_num_threads(setting.threads)
    pipeline = PatchScalerPipeline.from_pretrained(setting.model, dtype=resolve_dtype(setting.dtype, setting.device))
    pipeline.to(setting.device)
    return pipeline


def way_of(pipeline: PatchScalerPipeline, setting: Setting, **options: Any) -> Way:
    """Enlarges a sample's small picture with these options of the pipeline's call."""
    common: dict[str, Any] = {"output_type": "pt", "seed": setting.seed, "batch_size": setting.batch_size}

    def way(sample: Sample) -> PatchScalerOutput:
        output: Any = pipeline(sample.lr[0], **common, **options)
        return output

    return way


def judges(setting: Setting) -> list[Metric]:
    """The setting's metrics, JUDGE first. Raises WeightsError where one that is named itself can't be had."""
    names, named = choose_metrics(f"{JUDGE},{setting.metrics}", True)
    metrics, _ = load_metrics(names, named, shave=SCALE, folder=setting.features, device=setting.device)
    return metrics


def compare_ways(
    samples: Sequence[Sample],
    ways: Mapping[str, Way],
    metrics: Sequence[Metric],
    notify: Notify = lambda line: None,
    on_result: Callable[[Sample, str, PatchScalerOutput, Tensor], None] | None = None,
) -> dict[str, Measured]:
    """Every picture in every way, after one unmeasured round with the first way.

    on_result  called with the picture, the way's name, its output and the result (1,3,H,W), rounded as a file is

    Returns of each way: the metrics, seconds, sample_seconds and patch_steps of every picture.
    """
    found = {name: Measured() for name in ways}
    next(iter(ways.values()))(samples[0])
    for number, sample in enumerate(samples):
        notify(f"{sample.name} ({sample.condition}), {number + 1} of {len(samples)}")
        scorers = {metric.name: metric.scorer(sample.hr) for metric in metrics}
        for name, way in ways.items():
            started = time.perf_counter()
            output = way(sample)
            seconds = time.perf_counter() - started
            result = (output.images.float().cpu().clamp(0, 1) * 255).round() / 255
            found[name].add(
                **{metric: score(result) for metric, score in scorers.items()},
                seconds=seconds,
                sample_seconds=sampling_seconds(output.report.stages),
                patch_steps=float(output.report.patch_steps),
            )
            if on_result:
                on_result(sample, name, output, result)
    return found


def sampling_seconds(stages: Mapping[str, Mapping[str, float]]) -> float:
    """Of prompt and steps together: workers report both as one."""
    return float(sum(stages[name]["seconds"] for name in ("prompt", "sample") if name in stages))


def summary(title: str, found: Mapping[str, Measured], metrics: Sequence[Metric]) -> Table:
    """Means of the metrics, seconds per picture and all patch-steps; against the first way its difference in JUDGE."""
    first = next(iter(found.values()))
    columns: list[tuple[str, int]] = [("", 0), *((metric.name, metric.digits + 1) for metric in metrics)]
    columns += [(f"{JUDGE} against the first", 4), ("standard error", 4)]
    columns += [("seconds", 2), ("of them sampling", 2), ("patch-steps", 0)]
    rows: list[list[Any]] = []
    for name, measured in found.items():
        against = difference(measured.values[JUDGE], first.values[JUDGE])
        against = Difference(math.nan, math.nan) if measured is first else against
        rows.append(
            [
                name,
                *(measured.mean(metric.name) for metric in metrics),
                *against,
                measured.mean("seconds"),
                measured.mean("sample_seconds"),
                int(measured.total("patch_steps")),
            ]
        )
    return Table(title, columns, rows)
