"""Fig. 1 and 3: which patches are simple, medium and hard, what thresholds change, and who gains from more steps."""

import itertools
import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchscaler.imaging.geometry import STRIDE
from patchscaler.imaging.qmap import draw_qmap
from patchscaler.integrations.diffusers.output import PatchScalerOutput
from patchscaler.measure.experiments.inputs import Sample, read_samples
from patchscaler.measure.experiments.measuring import (
    JUDGE,
    Measured,
    Notify,
    compare_ways,
    difference,
    judges,
    load_model,
    way_of,
)
from patchscaler.measure.experiments.measuring import summary as ways_table
from patchscaler.measure.experiments.record import Record, Table, Verdict
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.quality.measure import box_means
from patchscaler.metrics.lpips import Lpips, load_lpips
from patchscaler.options import GAMMAS, PAPER_STEPS
from patchscaler.pgs.groups import GROUP_NAMES

STEPS = (0, 1, 2, 4, 8, 20)  # for every patch, from its group's start time
FEW, MANY = 2, 20
STEPS_OF_GROUPS = PAPER_STEPS
THRESHOLDS = (GAMMAS, (0.99, 0.9), (0.9, 0.6), (0.8, 0.5), (0.7, 0.3))
MAPS = 4  # pictures whose maps are drawn


@dataclass
class Patches:
    """All patches of all pictures: picture, group, mean confidence, and LPIPS after each number of steps."""

    pictures: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    lpips: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in STEPS})

    def of(self, group: int, count: int) -> list[float]:
        """LPIPS of a group's patches."""
        return [value for value, own in zip(self.lpips[count], self.groups, strict=True) if own == group]

    def by_picture(self, group: int, count: int) -> list[float]:
        """Mean of a group's patches in each picture that has some: patches of one picture aren't independent."""
        found: dict[int, list[float]] = {}
        for picture, own, value in zip(self.pictures, self.groups, self.lpips[count], strict=True):
            if own == group:
                found.setdefault(picture, []).append(value)
        return [statistics.fmean(values) for values in found.values()]


def run(setting: Setting, notify: Notify = lambda line: None) -> Record:
    samples, metrics, pipeline = read_samples(setting), judges(setting), load_model(setting)
    lpips = load_lpips("alex", setting.features).to(setting.device)
    patches, maps = Patches(), dict[str, Image.Image]()

    def collect(sample: Sample, name: str, output: PatchScalerOutput, result: Tensor) -> None:
        count = int(name.split()[0])
        patches.lpips[count] += _patch_lpips(lpips, sample, result, output.patch_boxes)
        if count:
            return
        patches.pictures += [len(set(patches.pictures))] * len(output.patch_boxes)
        patches.groups += output.groups.flatten().tolist()
        patches.confidence += box_means(output.confidence, [_in_latents(box) for box in output.patch_boxes])
        if len(maps) < MAPS:
            maps[f"qmap-{len(maps) + 1}.png"] = draw_qmap(
                result.numpy(), output.groups.flatten().numpy(), output.patch_boxes, list(output.report.patches)
            )

    steps = {f"{count} steps for every patch": way_of(pipeline, setting, steps=(count,) * 3) for count in STEPS}
    found = compare_ways(samples, steps, metrics, notify, collect)
    swept = {_label(gammas): way_of(pipeline, setting, steps=STEPS_OF_GROUPS, gammas=gammas) for gammas in THRESHOLDS}
    shares: dict[str, Any] = {name: np.zeros(3, np.int64) for name in swept}

    def count_groups(sample: Sample, name: str, output: PatchScalerOutput, result: Tensor) -> None:
        shares[name] += np.array(list(output.report.patches.values()))

    thresholds = compare_ways(samples, swept, metrics, notify, count_groups)
    record = Record(
        "groups",
        setting,
        {"steps": list(STEPS), "thresholds": [list(gammas) for gammas in THRESHOLDS]},
        [f"{sample.name} ({sample.condition})" for sample in samples],
        [
            _group_table(patches),
            ways_table("Thresholds between simple, medium and hard; steps 8, 14, 20", thresholds, metrics),
            _share_table(shares),
            ways_table("The same number of steps for every patch, from its group's start time", found, metrics),
        ],
    )
    record.verdicts = {"confidence": _confidence(patches), "steps-hard": _steps_hard(patches)}
    record.plot, record.maps = _plot(patches, thresholds), maps
    return record


@torch.no_grad()
def _patch_lpips(lpips: Lpips, sample: Sample, result: Tensor, boxes: list[tuple[int, int, int, int]]) -> list[float]:
    device = lpips.shift.device
    taps = [lpips(pixels.to(device)) for pixels in (result, sample.hr)]
    return box_means(lpips.distance_map(taps[0], taps[1], *result.shape[2:]).cpu(), boxes)


def _in_latents(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    top, left, height, width = box
    return top // STRIDE, left // STRIDE, -(-height // STRIDE), -(-width // STRIDE)


def _label(gammas: tuple[float, ...]) -> str:
    return "thresholds " + ", ".join(f"{gamma:g}" for gamma in gammas)


def _group_table(patches: Patches) -> Table:
    columns = [("group", 0), ("patches", 0), ("share", 3), *((f"{count} steps", 4) for count in STEPS)]
    rows = []
    for group, name in enumerate(GROUP_NAMES):
        amount = patches.groups.count(group)
        values = [statistics.fmean(patches.of(group, count)) if amount else None for count in STEPS]
        rows.append([name, amount, amount / len(patches.groups), *values])
    return Table("LPIPS (alex) of each group's patches after so many steps", columns, rows)


def _share_table(shares: dict[str, Any]) -> Table:
    columns = [("", 0), *((name, 3) for name in GROUP_NAMES)]
    return Table("Shares of the patches", columns, [[k, *(v / v.sum()).tolist()] for k, v in shares.items()])


def rank_correlation(one: list[float], other: list[float]) -> float:
    """Spearman's, equal values sharing their mean rank; not a number where one side is constant."""
    ranks: list[Any] = []
    for values in (one, other):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    if min(np.ptp(rank) for rank in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _confidence(patches: Patches) -> Verdict:
    means = [statistics.fmean(values) for group in range(3) if (values := patches.of(group, 0))]
    named = ", ".join(
        f"{name} {statistics.fmean(values):.3f}"
        for group, name in enumerate(GROUP_NAMES)
        if (values := patches.of(group, 0))
    )
    rank = rank_correlation([-value for value in patches.confidence], patches.lpips[0])
    ran = f"{len(patches.groups)} patches of {len(set(patches.pictures))} pictures, the restoration module alone"
    figure = f"LPIPS: {named}; rank correlation of doubt and LPIPS {rank:.2f}"
    rises = all(a < b for a, b in itertools.pairwise(means))
    return Verdict(rises and rank > 0 if len(means) > 1 else None, figure, ran)


def _steps_hard(patches: Patches) -> Verdict:
    gains = {group: difference(patches.by_picture(group, FEW), patches.by_picture(group, MANY)) for group in (0, 2)}
    counts = [len(patches.by_picture(group, FEW)) for group in gains]
    figure = f"gain in LPIPS from {FEW} to {MANY} steps: simple {gains[0]}, hard {gains[2]}"
    ran = f"simple patches of {counts[0]} pictures, hard ones of {counts[1]}"
    if min(counts) < 2:
        return Verdict(None, "fewer than two pictures have such patches", ran)
    return Verdict(bool(gains[2].rises) and not gains[0].rises, figure, ran)


def _plot(patches: Patches, thresholds: dict[str, Measured]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for group, name in enumerate(GROUP_NAMES):
        if patches.groups.count(group):
            values = [statistics.fmean(patches.of(group, count)) for count in STEPS]
            left.plot(range(len(STEPS)), values, "o-", label=name)
    left.set_xticks(range(len(STEPS)), [str(count) for count in STEPS])
    left.set_xlabel("steps")
    left.set_ylabel("LPIPS (alex) of the group's patches")
    left.legend()
    for name, measured in thresholds.items():
        mark = "*" if name == _label(GAMMAS) else "o"
        right.plot(measured.total("patch_steps"), measured.mean(JUDGE), mark, markersize=10, label=name)
    right.set_xlabel("patch-steps of all pictures")
    right.set_ylabel("LPIPS (alex), lower is better")
    right.legend(fontsize="small")
    return figure
