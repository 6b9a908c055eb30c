"""Fig. 6: quality against sampling time, over start times and steps, with the paper's choice marked."""

from typing import Any

from patchscaler.measure.experiments.inputs import Sample, read_samples
from patchscaler.measure.experiments.measuring import (
    JUDGE,
    Measured,
    Notify,
    compare_ways,
    difference,
    judges,
    load_model,
    summary,
    way_of,
)
from patchscaler.measure.experiments.record import Record, Verdict
from patchscaler.measure.experiments.setting import Setting
from patchscaler.options import PAPER_STEPS, QUALITIES
from patchscaler.pgs.groups import GroupConfig

Plan = tuple[tuple[int, ...], tuple[int, ...]]  # start times, steps

CHOSEN: Plan = (GroupConfig.taus, PAPER_STEPS)
UNIFORM: Plan = ((1000, 1000, 1000), (20, 20, 20))
# The paper's two ends, and what lies between.
TAUS: list[Plan] = [
    (taus, CHOSEN[1]) for taus in ((1000, 1000, 1000), (700, 850, 1000), (300, 550, 800), (200, 400, 600))
]
STEPS: list[Plan] = [(CHOSEN[0], steps) for steps in ((20, 20, 20), (14, 17, 20), (6, 10, 15), (4, 7, 10), (2, 4, 6))]
FEW: list[Plan] = [(CHOSEN[0], steps) for steps in ((1, 2, 3), QUALITIES["balanced"], QUALITIES["fast"])]
LEAST: Plan = ((200, 400, 600), (2, 4, 6))
NONE: Plan = (CHOSEN[0], (0, 0, 0))
EQUAL = 0.02  # share of the quality's figure within which two are called equal


def run(setting: Setting, notify: Notify = lambda line: None) -> Record:
    samples, metrics, pipeline = read_samples(setting), judges(setting), load_model(setting)
    plans = list(dict.fromkeys([UNIFORM, CHOSEN, *TAUS, *STEPS, LEAST, *FEW, NONE]))
    ways = {label(plan): way_of(pipeline, setting, taus=plan[0], steps=plan[1]) for plan in plans}
    found = compare_ways(samples, ways, metrics, notify)
    record = Record(
        "pgs",
        setting,
        {"plans": [label(plan) for plan in plans], "chosen": label(CHOSEN), "equal_within": EQUAL},
        [f"{sample.name} ({sample.condition})" for sample in samples],
        [summary("Start times and steps of simple, medium and hard patches", found, metrics)],
    )
    record.verdicts = _verdicts(found, samples)
    record.plot = _plot(found)
    return record


def label(plan: Plan) -> str:
    taus, steps = (",".join(map(str, part)) for part in plan)
    return f"from {taus}, steps {steps}"


def _verdicts(found: dict[str, Measured], samples: list[Sample]) -> dict[str, Verdict]:
    chosen, uniform, least = (found[label(plan)] for plan in (CHOSEN, UNIFORM, LEAST))
    worse = difference(chosen.values[JUDGE], uniform.values[JUDGE])
    work = chosen.total("patch_steps") / uniform.total("patch_steps")
    time = chosen.total("sample_seconds") / uniform.total("sample_seconds")
    equal = worse.mean <= EQUAL * uniform.mean(JUDGE)
    ran = f"{label(CHOSEN)} against {label(UNIFORM)}, {len(samples)} pictures"
    lost = difference(least.values[JUDGE], chosen.values[JUDGE])
    return {
        "equal-quality": Verdict(
            equal and work < 1 and time < 1,
            f"LPIPS {chosen.mean(JUDGE):.4f} against {uniform.mean(JUDGE):.4f} ({worse}) with {work:.2f} of the "
            f"patch-steps in {time:.2f} of the sampling time",
            ran,
        ),
        "fewer-lose": Verdict(
            lost.rises,
            f"LPIPS {least.mean(JUDGE):.4f} against {chosen.mean(JUDGE):.4f} ({lost})",
            f"{label(LEAST)} against {label(CHOSEN)}, {len(samples)} pictures",
        ),
        "more-gain-nothing": Verdict(
            None if worse.rises is None else not worse.rises,
            f"LPIPS of the chosen {chosen.mean(JUDGE):.4f}, of the most {uniform.mean(JUDGE):.4f} ({worse})",
            ran,
        ),
    }


def _plot(found: dict[str, Measured]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    series: dict[str, list[Plan]] = {
        "start times, steps 8,14,20": [*TAUS[:2], CHOSEN, *TAUS[2:]],
        "steps, from 400,700,1000": [*STEPS[:2], CHOSEN, *STEPS[2:]],
        "few steps": FEW,
        "every patch from 1000 in 20 steps": [UNIFORM],
        "earliest and fewest": [LEAST],
        "no sampling": [NONE],
    }
    for (name, plans), marker in zip(series.items(), "os^DvP", strict=True):
        at = [found[label(plan)] for plan in plans]
        line = "-" if len(plans) > 1 else ""
        axes.plot([m.mean("sample_seconds") for m in at], [m.mean(JUDGE) for m in at], line + marker, label=name)
    chosen = found[label(CHOSEN)]
    place = (chosen.mean("sample_seconds"), chosen.mean(JUDGE))
    axes.plot(*place, "*", color="black", markersize=16, label="chosen: 400,700,1000 and 8,14,20")
    axes.set_xlabel("seconds of sampling per picture")
    axes.set_ylabel("LPIPS (alex), lower is better")
    axes.legend(fontsize="small")
    return figure
