"""Table 1: the metrics on any folder, beside bicubic enlargement and other methods."""

import math
import tempfile
from pathlib import Path
from typing import Any

from patchscaler.measure.experiments.plots import bars, new_axes
from patchscaler.measure.experiments.record import Record, Table, Verdict
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.experiments.trial import Notify, judge_of, metrics_for, steps_text
from patchscaler.measure.intervals import difference
from patchscaler.measure.models import DEFAULT, PAPER, PATCHSCALER
from patchscaler.measure.quality.evaluate import Request, evaluate
from patchscaler.measure.quality.report import Report
from patchscaler.measure.rows import Row, Section
from patchscaler.measure.sets import look

STEPS = (PAPER.steps, DEFAULT)  # the paper's are the main row


def run(setting: Setting, notify: Notify = lambda line: None) -> Record:
    """Takes the folder's first pictures whole, unlike the other experiments, so that results of others fit."""

    def track(stage: str, total: int | None) -> Any:
        notify(stage)
        return lambda: None

    with tempfile.TemporaryDirectory() as folder:
        report = evaluate(request_for(setting), Path(folder), track=track)
    record = Record(
        "quality",
        setting,
        {"steps": [list(steps) for steps in STEPS], "not_measured": report.missing},
        list(report.sections[0].stems),
        [_table(report, section) for section in report.sections],
    )
    record.verdicts["peers"] = _verdict(report, [peer.name for peer in setting.peers])
    metric, sections = judge_of(report.metrics), report.sections
    record.plot, axes = new_axes(9, 1 + 0.9 * len(sections[0].rows))
    values = {
        s.condition or "as given": [v if math.isfinite(v := row.mean(metric.name)) else 0.0 for row in s.rows]
        for s in sections
    }
    bars(axes, [_name(row) for row in sections[0].rows], values, f"{metric.name}, {metric.better} is better")
    return record


def request_for(setting: Setting) -> Request:
    """What to evaluate, by what the folder holds."""
    source = look(setting.data, setting.no_reference)
    return Request(
        peers=setting.peers,
        model=setting.model,
        reference=source.sharp,
        inputs=source.small,
        conditions=setting.conditions if source.small is None else (),
        steps=STEPS,
        metrics=metrics_for(setting, source.sharp is not None),
        features=setting.features,
        seed=setting.seed,
        device=setting.device,
        batch_size=setting.batch_size,
        count=setting.pictures,
    )


def _table(report: Report, section: Section) -> Table:
    columns = [("", 0), *((metric.name, metric.digits) for metric in report.metrics), ("seconds", 2)]
    rows: list[list[Any]] = []
    for row in section.rows:
        seconds = row.mean("seconds") if "seconds" in row.values else None  # of results that were given nobody knows
        rows.append([_name(row), *(row.mean(metric.name) for metric in report.metrics), seconds])
    title = f"{len(section.stems)} pictures" + (f", {section.condition}" if section.condition else "")
    return Table(title, columns, rows)


def _name(row: Row) -> str:
    """The row's name; the model's main row says its steps too, as the others do."""
    return f"{row.name} {steps_text(STEPS[0])}" if row.name == PATCHSCALER else row.name


def _verdict(report: Report, peers: list[str]) -> Verdict:
    ran = f"the model with the paper's steps on {len(report.sections[0].stems)} pictures"
    if not peers:
        return Verdict(None, "no other method was given", ran)
    metric, found = judge_of(report.metrics), []
    holds: bool | None = True
    for section in report.sections:
        rows = section.rows_by_name
        best = metric.best([rows[name].mean(metric.name) for name in peers])
        rival = next((name for name in peers if rows[name].mean(metric.name) == best), peers[0])
        text = f"{rival} {best:.{metric.digits}f}"
        for ours in (rows[PATCHSCALER], rows[f"{PATCHSCALER} {steps_text(DEFAULT)}"]):
            pair = (ours, rows[rival]) if metric.better == "higher" else (rows[rival], ours)
            gain = difference(*([row.values[metric.name][stem] for stem in section.stems] for row in pair))
            if ours.name == PATCHSCALER:
                holds = None if gain.rises is None or holds is None else holds and gain.rises
            text += f", {_name(ours)} {ours.mean(metric.name):.{metric.digits}f} (gain {gain})"
        found.append(f"{section.condition}: {text}" if section.condition else text)
    return Verdict(holds, f"{metric.name}: {'; '.join(found)}", f"{ran}, against {', '.join(peers)}")
