"""Fig. 1 and 3: which patches are simple, medium and hard, what thresholds change, and who gains from more steps."""

import itertools
import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from patchscaler.imaging.qmap import draw_qmap
from patchscaler.measure.experiments.ablation import sweep
from patchscaler.measure.experiments.plots import new_axes, scatter
from patchscaler.measure.experiments.record import Record, Table, Verdict
from patchscaler.measure.experiments.trial import Trial, steps_text
from patchscaler.measure.intervals import bootstrap, difference
from patchscaler.measure.models import DEFAULT, PAPER, STRIDE, Enlarged
from patchscaler.measure.pairing import read_pixels
from patchscaler.measure.quality.measure import box_means, lpips_map
from patchscaler.measure.rows import mean
from patchscaler.metrics.lpips import load_lpips

STEPS = (0, 1, 2, 4, 8, 20)  # for every patch, from its group's start time
FEW, MANY = 2, 20
THRESHOLDS = ("0.95/0.75", "0.99/0.9", "0.9/0.6", "0.8/0.5", "0.7/0.3")
CHOSEN = f"gammas = {THRESHOLDS[0]}"
MAPS = 4  # pictures whose maps are drawn


@dataclass
class Patches:
    """All patches of all pictures: picture, group, mean confidence, and LPIPS after each number of steps."""

    pictures: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    lpips: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in STEPS})

    def of(self, group: int, count: int) -> list[float]:
        """LPIPS of a group's patches."""
        return [value for value, own in zip(self.lpips[count], self.groups, strict=True) if own == group]

    def by_picture(self, group: int, count: int) -> list[float]:
        """Mean of a group's patches in each picture that has some: patches of one picture aren't independent."""
        found: dict[str, list[float]] = {}
        for picture, own, value in zip(self.pictures, self.groups, self.lpips[count], strict=True):
            if own == group:
                found.setdefault(picture, []).append(value)
        return [statistics.fmean(values) for values in found.values()]


def run(trial: Trial) -> Record:
    references = trial.samples.section.references
    patches, maps = Patches(), dict[str, Image.Image]()
    lpips = None if references is None else load_lpips("alex", trial.setting.features).to(trial.setting.device)

    def collect(stem: str, name: str, result: Enlarged) -> None:
        count, output = int(name.split()[0]), result.output
        if lpips is not None and references is not None:
            plane = lpips_map(lpips, result.pixels, read_pixels(references[stem]))
            patches.lpips[count] += box_means(plane, output.patch_boxes)
        if count:
            return
        patches.pictures += [stem] * len(output.patch_boxes)
        patches.groups += output.groups.flatten().tolist()
        patches.confidence += box_means(output.confidence.cpu(), [_in_latents(box) for box in output.patch_boxes])
        if len(maps) < MAPS:
            names = list(output.report.patches)
            drawn = draw_qmap(result.pixels.numpy(), output.groups.flatten().numpy(), output.patch_boxes, names)
            maps[f"qmap-{len(maps) + 1}.png"] = drawn

    found = trial.compare({f"{n} steps for every patch": trial.way(steps=(n,) * 3) for n in STEPS}, collect)
    end = f", steps {steps_text(DEFAULT)}"
    swept = sweep(trial, "gammas", THRESHOLDS, steps=PAPER.steps)
    swept[CHOSEN + end] = trial.way(steps=DEFAULT)
    shares: dict[str, Any] = {name: np.zeros(3, np.int64) for name in swept}

    def count_groups(stem: str, name: str, result: Enlarged) -> None:
        shares[name] += np.array(list(result.output.report.patches.values()))

    thresholds = trial.compare(swept, count_groups)
    record = trial.record(
        "groups",
        {"steps": list(STEPS), "thresholds": list(THRESHOLDS)},
        [
            *([] if lpips is None else [_group_table(patches)]),
            trial.summary(f"Thresholds between simple, medium and hard; steps {steps_text(PAPER.steps)}", thresholds),
            _share_table(shares),
            trial.summary("The same number of steps for every patch, from its group's start time", found),
        ],
    )
    blind = Verdict(None, "patches are judged by LPIPS, which compares with a ground truth", "nothing")
    record.verdicts = {
        "confidence": blind if lpips is None else _confidence(patches),
        "steps-hard": blind if lpips is None else _steps_hard(patches),
    }
    record.plot, (left, right) = new_axes(11, columns=2)
    judge = trial.judge.name
    curves = {
        name: [(float(place), mean(patches.of(group, count))) for place, count in enumerate(STEPS)]
        for group, name in enumerate(PAPER.names)
        if lpips is not None and patches.groups.count(group)
    }
    whole = [(float(place), row.mean(judge)) for place, row in enumerate(found.values())]
    scatter(left, curves or {"all patches": whole}, "steps", f"{judge} of the group's patches")
    left.set_xticks(range(len(STEPS)), [str(count) for count in STEPS])
    points = {name: [(row.total("patch_steps"), row.mean(judge))] for name, row in thresholds.items()}
    scatter(right, points, "patch-steps of all pictures", f"{judge}, {trial.judge.better} is better")
    record.maps = maps
    return record


def _in_latents(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    top, left, height, width = box
    return top // STRIDE, left // STRIDE, -(-height // STRIDE), -(-width // STRIDE)


def _group_table(patches: Patches) -> Table:
    columns = [("group", 0), ("patches", 0), ("share", 3), *((f"{count} steps", 4) for count in STEPS)]
    rows: list[list[Any]] = []
    for group, name in enumerate(PAPER.names):
        amount = patches.groups.count(group)
        rows.append([name, amount, amount / len(patches.groups), *(mean(patches.of(group, n)) for n in STEPS)])
    return Table("LPIPS (alex) of each group's patches after so many steps", columns, rows)


def _share_table(shares: dict[str, Any]) -> Table:
    columns = [("", 0), *((name, 3) for name in PAPER.names)]
    return Table("Shares of the patches", columns, [[k, *(v / v.sum()).tolist()] for k, v in shares.items()])


def rank_correlation(one: Any, other: Any) -> float:
    """Spearman's, equal values sharing their mean rank; not a number where one side is constant."""
    ranks: list[Any] = []
    for values in (one, other):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    if min(np.ptp(rank) for rank in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _confidence(patches: Patches) -> Verdict:
    """Pictures are drawn, not patches: those of one picture aren't independent."""
    doubt, errors = -np.array(patches.confidence), np.array(patches.lpips[0])
    pictures = list(dict.fromkeys(patches.pictures))
    places = [np.flatnonzero(np.array(patches.pictures) == stem) for stem in pictures]

    def rank(numbers: Any) -> float:
        drawn = np.concatenate([places[number] for number in numbers])
        return rank_correlation(doubt[drawn], errors[drawn])

    known = {name: mean(values) for g, name in enumerate(PAPER.names) if (values := patches.of(g, 0))}
    named, interval = ", ".join(f"{name} {value:.3f}" for name, value in known.items()), bootstrap(len(pictures), rank)
    rises = all(a < b for a, b in itertools.pairwise(known.values()))
    holds = None if len(known) < 2 or interval.rises is None else rises and interval.rises
    figure = f"LPIPS: {named}; rank correlation of doubt and LPIPS {interval}"
    return Verdict(holds, figure, f"{len(patches.groups)} patches of {len(pictures)} pictures, the restorer alone")


def _steps_hard(patches: Patches) -> Verdict:
    gains = {group: difference(patches.by_picture(group, FEW), patches.by_picture(group, MANY)) for group in (0, 2)}
    counts = [len(patches.by_picture(group, FEW)) for group in gains]
    figure = f"gain in LPIPS from {FEW} to {MANY} steps: simple {gains[0]}, hard {gains[2]}"
    known = gains[0].rises is not None and gains[2].rises is not None
    ran = f"simple patches of {counts[0]} pictures, hard ones of {counts[1]}"
    return Verdict(bool(gains[2].rises) and not gains[0].rises if known else None, figure, ran)
