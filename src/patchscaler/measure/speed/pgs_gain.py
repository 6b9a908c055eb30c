"""What adaptive steps save and cost: PGS against uniform steps over a folder of sharp pictures."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from patchscaler.errors import ConfigError
from patchscaler.imaging.files import find_pictures
from patchscaler.measure.models import PAPER, SCALE, UNIFORM, run_ways, way_of
from patchscaler.measure.pairing import read_pixels
from patchscaler.measure.quality.measure import measure
from patchscaler.measure.rows import Row, mean
from patchscaler.measure.sets import Source, open_samples
from patchscaler.measure.speed.settings import ADAPTIVE
from patchscaler.measure.speed.settings import UNIFORM as EVERY
from patchscaler.metrics.choice import load_metrics

JUDGE = "lpips_alex"


def compare(
    model: Any,
    folder: Path,
    *,
    features: Path | None = None,
    steps: Sequence[int] = PAPER.steps,
    batch_size: int = 64,
    notify: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Shrink every picture of `folder` to a quarter by bicubic interpolation and enlarge it both ways, in turns, after
    one unmeasured round.

    Returns for "uniform" (20 steps from 1000 for every patch) and "adaptive": sample_seconds and patch_steps in all,
    mean psnr_y and, where LPIPS (alex) can be had, quality; further "pictures", each one's figures; time_ratio,
    quality_change (adaptive / uniform - 1, above 0 is worse) and mean_difference of the results in [0,1].
    Raises ConfigError for a folder without pictures.
    """
    if not find_pictures([folder]):
        raise ConfigError(f"{folder}: holds no pictures to compare PGS on")
    metrics, missing = load_metrics(["psnr_y", JUDGE], set(), shave=SCALE, folder=features, device=str(model.device))
    for reason in missing.values():  # its weights are no dependency of ours
        notify(f"PGS against uniform: without LPIPS, {reason}")
    ways = {
        EVERY: way_of(model, steps=UNIFORM.steps, taus=UNIFORM.taus, batch_size=batch_size),
        ADAPTIVE: way_of(model, steps=tuple(steps), batch_size=batch_size),
    }
    with tempfile.TemporaryDirectory() as place:
        samples = open_samples(Source(folder, None), Path(place), count=0, side=0, conditions=("bicubic",), seed=0)
        section = samples.section
        ways[EVERY](next(iter((section.inputs or {}).values())))
        section.rows = run_ways(section, ways, Path(place) / "results", lambda stem, name, _: notify(f"{stem}, {name}"))
        measure([section], metrics)
        uniform, adaptive = section.rows
        gaps = [_gap(uniform.files[stem], adaptive.files[stem]) for stem in section.stems]
    return _summary(uniform, adaptive, gaps) | ({} if missing else {"quality_name": JUDGE})


def _gap(one: Path, other: Path) -> float:
    return float((read_pixels(one) - read_pixels(other)).abs().mean())


def _summary(uniform: Row, adaptive: Row, gaps: list[float]) -> dict[str, Any]:
    names = {"psnr_y": "psnr_y", JUDGE: "quality"}
    summary: dict[str, Any] = {}
    for method, row in ((EVERY, uniform), (ADAPTIVE, adaptive)):
        summary[method] = {name: row.total(name) for name in ("sample_seconds", "patch_steps")}
        summary[method] |= {short: row.mean(name) for name, short in names.items() if name in row.values}
    summary["time_ratio"] = adaptive.total("sample_seconds") / uniform.total("sample_seconds")
    if "quality" in summary[EVERY]:
        summary["quality_change"] = summary[ADAPTIVE]["quality"] / summary[EVERY]["quality"] - 1
    pictures = [
        {"picture": stem, "mean_difference": gap}
        | {
            method: {names.get(name, name): values[stem] for name, values in row.values.items()}
            for method, row in ((EVERY, uniform), (ADAPTIVE, adaptive))
        }
        for stem, gap in zip(uniform.files, gaps, strict=True)
    ]
    return summary | {"mean_difference": mean(gaps), "pictures": pictures}
