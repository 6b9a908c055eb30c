"""Ways of enlarging held against each other in an experiment: the same pictures, in turns, and who is better."""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchscaler.measure.experiments.record import Record, Table
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.intervals import Interval, difference
from patchscaler.measure.models import DEFAULT, SCALE, OnResult, Way, load_model, run_ways, way_of
from patchscaler.measure.quality.measure import measure
from patchscaler.measure.rows import Row
from patchscaler.measure.sets import Samples, look, open_samples
from patchscaler.metrics.choice import Metric, choose_metrics, load_metrics

JUDGE = "lpips_alex"  # decides the claims where there is a ground truth
# What decides where there is none: the first that can be had.
BLIND_JUDGES = ("maniqa_koniq", "clipiqa", "musiq", "niqe")

Notify = Callable[[str], None]
Found = Mapping[str, Row]


def judge_of(metrics: list[Metric]) -> Metric:
    """The metric that decides claims: LPIPS, else the first of BLIND_JUDGES."""
    by_name = {metric.name: metric for metric in metrics}
    return next((by_name[name] for name in (JUDGE, *BLIND_JUDGES) if name in by_name), metrics[0])


def metrics_for(setting: Setting, with_reference: bool) -> str:
    """Names of the setting's metrics, with those that decide claims."""
    return f"{JUDGE},{setting.metrics}" if with_reference else f"{setting.metrics},blind"


def steps_text(steps: tuple[int, ...]) -> str:
    return ",".join(map(str, steps))


@dataclass
class Trial:
    """An experiment's pictures, metrics and, once asked for, its model."""

    setting: Setting
    samples: Samples
    metrics: list[Metric]
    folder: Path
    notify: Notify

    def __post_init__(self) -> None:
        self.judge = judge_of(self.metrics)
        self._model: Any = None

    @property
    def model(self) -> Any:
        if self._model is None:
            self._model = self.load(self.setting.model)
        return self._model

    def load(self, name: str) -> Any:
        """A model by its name or folder, as the setting has the experiment's own. Raises WeightsError."""
        return load_model(name, self.setting.device, self.setting.dtype, self.setting.threads)

    @property
    def count(self) -> int:
        return len(self.samples.conditions)

    def way(self, model: Any = None, **options: Any) -> Way:
        """The experiment's model, or one with other parts, with these options of the call."""
        return way_of(
            self.model if model is None else model,
            **{"seed": self.setting.seed, "batch_size": self.setting.batch_size} | options,
        )

    def compare(self, ways: Mapping[str, Way], on_result: OnResult = lambda stem, name, result: None) -> dict[str, Row]:
        """Every picture in every way, after one unmeasured round with the first way; rows with the metrics, seconds,
        sample_seconds and patch_steps of every picture. on_result: see `run_ways`."""
        section = self.samples.section
        first = next(iter(ways))
        next(iter(ways.values()))(next(iter((section.inputs or {}).values())))

        def told(stem: str, name: str, result: Any) -> None:
            if name == first:
                self.notify(f"{stem} ({self.samples.conditions[stem]})")
            on_result(stem, name, result)

        section.rows = run_ways(section, ways, self.folder, told)
        measure([section], self.metrics)
        return section.rows_by_name

    def gain(self, one: Row, other: Row) -> Interval:
        """How much better `one` is by the judge, above 0 where it is."""
        pair = (one, other) if self.judge.better == "higher" else (other, one)
        return difference(*(row.column(self.judge.name) for row in pair))

    def figures(self, one: Row, other: Row) -> str:
        """Both means by the judge, and the gain of the first."""
        name, digits = self.judge.name, self.judge.digits + 1
        means = f"{one.mean(name):.{digits}f} against {other.mean(name):.{digits}f}"
        return f"{name} {means} (gain {self.gain(one, other)})"

    def summary(self, title: str, found: Found) -> Table:
        """Means of the metrics, seconds per picture, all patch-steps; the judge's gain over the first way."""
        first = next(iter(found.values()))
        columns: list[tuple[str, int]] = [("", 0), *((metric.name, metric.digits + 1) for metric in self.metrics)]
        columns += [(f"gain in {self.judge.name} over the first", 4), ("from", 4), ("to", 4)]
        columns += [("seconds", 2), ("of them sampling", 2), ("patch-steps", 0)]
        rows: list[list[Any]] = []
        for name, row in found.items():
            gain = Interval(math.nan, math.nan, math.nan) if row is first else self.gain(row, first)
            means = [row.mean(metric.name) for metric in self.metrics]
            times = [row.mean("seconds"), row.mean("sample_seconds"), int(row.total("patch_steps"))]
            rows.append([name, *means, *gain, *times])
        return Table(title, columns, rows)

    def record(self, name: str, varied: dict[str, Any], tables: list[Table]) -> Record:
        varied = {"judge": self.judge.name, "default_steps": list(DEFAULT)} | varied
        return Record(name, self.setting, varied, self.samples.names, tables)


@contextmanager
def open_trial(setting: Setting, notify: Notify) -> Iterator[Trial]:
    """A Trial whose files are gone afterwards. Raises DataError; WeightsError for a metric that can't be had and was
    named itself, or LPIPS where it decides."""
    source = look(setting.data, setting.no_reference)
    names, named = choose_metrics(metrics_for(setting, source.sharp is not None), source.sharp is not None)
    metrics, _ = load_metrics(names, named, shave=SCALE, folder=setting.features, device=setting.device)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        samples = open_samples(
            source,
            folder,
            count=setting.pictures,
            side=setting.side,
            conditions=setting.conditions,
            seed=setting.seed,
        )
        yield Trial(setting, samples, metrics, folder / "results", notify)
