"""One experiment from its setting to its folder."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from patchscaler.measure.experiments import groups, pgs, plug_in, prompt, quality, runtime
from patchscaler.measure.experiments.catalogue import CATALOGUE, PLUG_IN
from patchscaler.measure.experiments.measuring import Notify
from patchscaler.measure.experiments.record import Record
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.speed.table import check_plot

RUNNERS: dict[str, Callable[[Setting, Notify], Record]] = {
    "pgs": pgs.run,
    "groups": groups.run,
    "prompt": prompt.run,
    "runtime": runtime.run,
    "quality": quality.run,
    PLUG_IN: plug_in.run,
}


def run(name: str, setting: Setting, out: Path, pictures: int | None, notify: Notify = lambda line: None) -> Path:
    """Runs experiment `name` and writes OUT/NAME, which it returns. pictures: None for the experiment's default.

    Raises ConfigError without matplotlib, and for plug-in without a backbone; WeightsError without LPIPS; DataError for
    unusable pictures.
    """
    check_plot(out / "plot.png")
    count = CATALOGUE[name].pictures if pictures is None else pictures
    started = time.monotonic()
    record = RUNNERS[name](dataclasses.replace(setting, pictures=count), notify)
    record.seconds = time.monotonic() - started
    return record.write(out)
