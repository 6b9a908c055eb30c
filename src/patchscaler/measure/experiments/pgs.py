"""Fig. 6: quality against sampling time, over start times and steps, with the paper's choice marked."""

from patchscaler.measure.experiments.plots import new_axes, scatter
from patchscaler.measure.experiments.record import Record, Verdict
from patchscaler.measure.experiments.trial import Found, Trial, steps_text
from patchscaler.measure.intervals import difference
from patchscaler.measure.models import DEFAULT, NONE, PAPER, UNIFORM

Plan = tuple[tuple[int, ...], tuple[int, ...]]  # start times, steps

CHOSEN: Plan = (PAPER.taus, PAPER.steps)
MOST: Plan = (UNIFORM.taus, UNIFORM.steps)
# The paper's two ends, and what lies between.
TAUS: list[Plan] = [
    (taus, PAPER.steps) for taus in ((1000, 1000, 1000), (700, 850, 1000), (300, 550, 800), (200, 400, 600))
]
STEPS: list[Plan] = [(PAPER.taus, steps) for steps in ((20, 20, 20), (14, 17, 20), (6, 10, 15), (4, 7, 10), (2, 4, 6))]
FEW: list[Plan] = [(PAPER.taus, steps) for steps in ((1, 2, 3), DEFAULT, (0, 0, 1))]
LEAST: Plan = ((200, 400, 600), (2, 4, 6))
WITHOUT: Plan = (PAPER.taus, NONE.steps)
EQUAL = 0.02  # share of the quality's figure within which two are called equal


def run(trial: Trial) -> Record:
    plans = list(dict.fromkeys([MOST, CHOSEN, *TAUS, *STEPS, LEAST, *FEW, WITHOUT]))
    found = trial.compare({label(plan): trial.way(taus=plan[0], steps=plan[1]) for plan in plans})
    record = trial.record(
        "pgs",
        {"plans": [label(plan) for plan in plans], "chosen": label(CHOSEN), "equal_within": EQUAL},
        [trial.summary("Start times and steps of simple, medium and hard patches", found)],
    )
    record.verdicts = _verdicts(trial, found)
    figure, axes = new_axes(8, 5.0)
    series: dict[str, list[Plan]] = {
        "start times, steps 8,14,20": [*TAUS[:2], CHOSEN, *TAUS[2:]],
        "steps, from 400,700,1000": [*STEPS[:2], CHOSEN, *STEPS[2:]],
        "few steps": FEW,
        "every patch from 1000 in 20 steps": [MOST],
        "earliest and fewest": [LEAST],
        "no sampling": [WITHOUT],
        "chosen: 400,700,1000 and 8,14,20": [CHOSEN],
    }
    points = {
        name: [(row.mean("sample_seconds"), row.mean(trial.judge.name)) for row in (found[label(p)] for p in listed)]
        for name, listed in series.items()
    }
    scatter(axes, points, "seconds of sampling per picture", f"{trial.judge.name}, {trial.judge.better} is better")
    record.plot = figure
    return record


def label(plan: Plan) -> str:
    return f"from {steps_text(plan[0])}, steps {steps_text(plan[1])}"


def _verdicts(trial: Trial, found: Found) -> dict[str, Verdict]:
    chosen, most, least, few = (found[label(p)] for p in (CHOSEN, MOST, LEAST, (PAPER.taus, DEFAULT)))
    gain = trial.gain(chosen, most)
    work = chosen.total("patch_steps") / most.total("patch_steps")
    time = chosen.total("sample_seconds") / most.total("sample_seconds")
    faster = difference(chosen.column("sample_seconds"), most.column("sample_seconds"))
    equal = gain.value >= -EQUAL * abs(most.mean(trial.judge.name))
    ran = f"{label(CHOSEN)} against {label(MOST)}, {trial.count} pictures"
    also = f"; with the default's steps {steps_text(DEFAULT)}: {trial.figures(few, most)}"
    return {
        "equal-quality": Verdict(
            equal and work < 1 and time < 1,
            f"{trial.figures(chosen, most)} with {work:.2f} of the patch-steps in {time:.2f} of the sampling time "
            f"({faster} s a picture){also}",
            ran,
        ),
        "fewer-lose": Verdict(
            trial.gain(chosen, least).rises,
            f"{trial.figures(chosen, least)}; the default's steps: {trial.figures(few, chosen)}",
            f"{label(CHOSEN)} against {label(LEAST)}, {trial.count} pictures",
        ),
        "more-gain-nothing": Verdict(
            None if gain.falls is None else not gain.falls, f"{trial.figures(chosen, most)}{also}", ran
        ),
    }
