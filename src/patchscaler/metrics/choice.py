"""The metrics by name, each with the exact weights it uses in its label."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from patchscaler.errors import ConfigError, WeightsError
from patchscaler.metrics.dists import Dists, load_dists
from patchscaler.metrics.fidelity import SSIM_WINDOW, psnr_y, ssim_y
from patchscaler.metrics.lpips import Lpips, load_lpips
from patchscaler.metrics.niqe import PARAMETERS_SOURCE as NIQE_SOURCE
from patchscaler.metrics.niqe import Niqe
from patchscaler.metrics.pyiqa_metrics import PYIQA_METRICS, load_pyiqa

# A picture (1,3,H,W) in [0,1] -> its value; not a number where the metric can't be taken.
Scorer = Callable[[Tensor], float]

OWN_METRICS = ("psnr_y", "ssim_y", "lpips_alex", "lpips_vgg", "dists", "niqe")
GROUPS = {
    "default": ("psnr_y", "ssim_y", "lpips_alex", "niqe"),
    "offline": OWN_METRICS,
    "all": (*OWN_METRICS, *PYIQA_METRICS),
    "blind": ("niqe", *PYIQA_METRICS),
}
BLIND = GROUPS["blind"]  # those that need no ground truth


@dataclass(frozen=True)
class Metric:
    """One column of a report.

    name       short, as on the command line
    label      with the weights and settings that make its values comparable with others'
    better     which values are better
    digits     worth printing behind the point
    reference  whether it compares with a ground truth
    scorer     the ground truth (1,3,H,W) in [0,1], or None -> Scorer; what it computes of the truth, it computes once
    sha256     of its large weights, or ""
    """

    name: str
    label: str
    better: Literal["higher", "lower"]
    digits: int
    reference: bool
    scorer: Callable[[Tensor | None], Scorer]
    sha256: str = ""

    def best(self, values: Sequence[float]) -> float:
        """The best of some values, those that are not numbers left out; not a number if there is no other."""
        numbers = [value for value in values if not math.isnan(value)]
        return (max if self.better == "higher" else min)(numbers, default=math.nan)


def choose_metrics(names: str, with_reference: bool) -> tuple[list[str], set[str]]:
    """Metrics named in "a,b,..." where "default", "offline" and "all" are groups; and those of them named themselves.

    Without reference, groups leave out what needs one. Raises ConfigError for unknown names and for metrics that are
    named and need a reference that isn't there.
    """
    chosen: list[str] = []
    named = set()
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name in GROUPS:
            chosen += [member for member in GROUPS[name] if with_reference or member in BLIND]
            continue
        if name not in GROUPS["all"]:
            raise ConfigError(f"--metrics {name}: unknown; choose from {', '.join((*GROUPS, *GROUPS['all']))}")
        if not with_reference and name not in BLIND:
            raise ConfigError(f"--metrics {name}: compares with a ground truth; name its folder with --ref")
        chosen.append(name)
        named.add(name)
    if not chosen:
        raise ConfigError("--metrics: name at least one metric, or leave it out")
    return list(dict.fromkeys(chosen)), named


def load_metrics(
    names: Sequence[str], named: set[str], *, shave: int, folder: str | Path | None, device: str
) -> tuple[list[Metric], dict[str, str]]:
    """The metrics, and why each of those left out can't be had.

    shave   border left out of PSNR and SSIM in pixels
    folder  of convolutions, see `load_convolutions`

    Raises WeightsError for a metric that can't be had and was named itself rather than by a group.
    """
    metrics, missing = [], {}
    for name in names:
        try:
            metrics.append(_load(name, shave, folder, device))
        except WeightsError as error:
            if name in named:
                raise
            missing[name] = str(error)
    if not metrics:
        raise WeightsError("; ".join(missing.values()))
    return metrics, missing


def _load(name: str, shave: int, folder: str | Path | None, device: str) -> Metric:
    if name == "psnr_y":
        label = f"psnr_y (BT.601 luma, border {shave})"
        return Metric(name, label, "higher", 2, True, _paired(lambda a, b: psnr_y(a, b, shave), 2 * shave + 1))
    if name == "ssim_y":
        label, smallest = f"ssim_y (BT.601 luma, border {shave})", 2 * shave + SSIM_WINDOW
        return Metric(name, label, "higher", 3, True, _paired(lambda a, b: ssim_y(a, b, shave), smallest))
    if name == "niqe":
        niqe = Niqe()
        return Metric(name, f"niqe ({NIQE_SOURCE}, luma)", "lower", 2, False, lambda truth: niqe)
    if name in ("lpips_alex", "lpips_vgg"):
        lpips = load_lpips("alex" if name == "lpips_alex" else "vgg", folder)
        return Metric(name, f"{name} ({lpips.source})", "lower", 3, True, _features(lpips, device), lpips.sha256)
    if name == "dists":
        dists = load_dists(folder)
        return Metric(name, f"dists ({dists.source})", "lower", 3, True, _features(dists, device), dists.sha256)
    label, score, better = load_pyiqa(name, device)
    return Metric(name, label, better, 3, False, lambda truth: score)


def _paired(function: Callable[[Tensor, Tensor], float], smallest: int) -> Callable[[Tensor | None], Scorer]:
    def scorer(truth: Tensor | None) -> Scorer:
        assert truth is not None
        return lambda picture: function(picture, truth) if min(truth.shape[2:]) >= smallest else math.nan

    return scorer


def _features(network: Lpips | Dists, device: str) -> Callable[[Tensor | None], Scorer]:
    """Scorers of LPIPS or DISTS, which keep the truth's taps."""
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def scorer(truth: Tensor | None) -> Scorer:
        assert truth is not None
        if min(truth.shape[2:]) < network.smallest:
            return lambda picture: math.nan
        wanted = network(truth.to(device))

        @torch.no_grad()
        def score(picture: Tensor) -> float:
            return float(network.distance(network(picture.to(device)), wanted))

        return score

    return scorer
