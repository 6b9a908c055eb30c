"""One experiment from its setting to its folder."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from patchscaler.measure.experiments import ablation, groups, pgs, plug_in, prompt, quality, runtime
from patchscaler.measure.experiments.catalogue import ABLATION, CATALOGUE, PLUG_IN, PROMPT
from patchscaler.measure.experiments.record import Record
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.experiments.trial import Notify, Trial, open_trial
from patchscaler.measure.speed.table import check_plot

Runner = Callable[[Setting, Notify], Record]


def _tried(run: Callable[[Trial], Record]) -> Runner:
    """An experiment that compares ways on the setting's pictures."""

    def runner(setting: Setting, notify: Notify) -> Record:
        with open_trial(setting, notify) as trial:
            return run(trial)

    return runner


RUNNERS: dict[str, Runner] = {
    "pgs": _tried(pgs.run),
    "groups": _tried(groups.run),
    PROMPT: _tried(prompt.run),
    "runtime": runtime.run,
    "quality": quality.run,
    PLUG_IN: _tried(plug_in.run),
    ABLATION: _tried(ablation.run),
}


def run(name: str, setting: Setting, out: Path, pictures: int | None, notify: Notify = lambda line: None) -> Path:
    """Runs experiment `name` and writes OUT/NAME, which it returns. pictures: None for the experiment's default.

    Raises ConfigError without matplotlib, for plug-in without a backbone and for ablation without --set; WeightsError
    without LPIPS; DataError for unusable pictures.
    """
    check_plot(out / "plot.png")
    count = CATALOGUE[name].pictures if pictures is None else pictures
    started = time.monotonic()
    record = RUNNERS[name](dataclasses.replace(setting, pictures=count), notify)
    record.seconds = time.monotonic() - started
    return record.write(out)
