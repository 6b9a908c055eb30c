"""Table 1: the metrics on any folder, beside bicubic enlargement and other methods' results."""

import math
import tempfile
from pathlib import Path
from typing import Any

from patchscaler.data.testsets import HR_FOLDERS, LR_FOLDERS, pair_folders, recognise
from patchscaler.measure.experiments.measuring import JUDGE, Notify, difference
from patchscaler.measure.experiments.record import Record, Table, Verdict
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.quality.evaluate import Request, evaluate
from patchscaler.measure.quality.produce import PATCHSCALER
from patchscaler.measure.quality.report import Report
from patchscaler.measure.quality.rows import Row, Section
from patchscaler.metrics.choice import Metric
from patchscaler.options import DEFAULT_QUALITY, PAPER_STEPS, QUALITIES

STEPS = (PAPER_STEPS, QUALITIES[DEFAULT_QUALITY])  # the paper's are the main row
WITHOUT_TRUTH = ("musiq", "maniqa_koniq", "clipiqa", "niqe")  # what judges where there is no ground truth


def run(setting: Setting, notify: Notify = lambda line: None) -> Record:
    """Takes the folder's first pictures, unlike the other experiments, so that results of others fit."""
    request = request_for(setting)

    def track(stage: str, total: int | None) -> Any:
        notify(stage)
        return lambda: None

    with tempfile.TemporaryDirectory() as folder:
        report = evaluate(request, Path(folder), track=track)
    record = Record(
        "quality",
        setting,
        {"steps": [list(steps) for steps in STEPS], "not_measured": report.missing},
        list(report.sections[0].stems),
        [_table(report, section) for section in report.sections],
    )
    record.verdicts["peers"] = _verdict(report, list(setting.peers))
    record.plot = _plot(report)
    return record


def request_for(setting: Setting) -> Request:
    """What to evaluate, by what the folder holds: pairs, small pictures alone, or sharp ones to be made small."""
    folders: dict[str, Any] = {}
    pairs, known = pair_folders(setting.data), recognise(setting.data).layout
    small = next((setting.data / name for name in LR_FOLDERS if (setting.data / name).is_dir()), None)
    if pairs is not None:
        folders = {"reference": pairs.hr, "inputs": pairs.lr}
    elif small is not None or (known is not None and known.small_alone):
        folders = {"inputs": small or setting.data}
    else:
        sharp = next((setting.data / name for name in HR_FOLDERS if (setting.data / name).is_dir()), setting.data)
        folders = {"reference": sharp, "conditions": setting.conditions}
    return Request(
        outs=setting.peers,
        model=setting.model,
        steps=STEPS,
        metrics=f"{JUDGE},{setting.metrics}" if "reference" in folders else setting.metrics,
        features=setting.features,
        seed=setting.seed,
        device=setting.device,
        batch_size=setting.batch_size,
        count=setting.pictures,
        **folders,
    )


def _table(report: Report, section: Section) -> Table:
    columns = [("", 0), *((metric.name, metric.digits) for metric in report.metrics)]
    rows = [[_name(row), *(row.mean(metric.name) for metric in report.metrics)] for row in section.rows]
    return Table(
        f"{len(section.stems)} pictures" + (f", {section.condition}" if section.condition else ""), columns, rows
    )


def _name(row: Row) -> str:
    """The row's name; the model's main row says its steps too, as the others do."""
    return f"{row.name} {','.join(map(str, STEPS[0]))}" if row.name == PATCHSCALER else row.name


def judge_of(report: Report) -> Metric:
    """LPIPS where there is a ground truth, else the first of WITHOUT_TRUTH."""
    by_name = {metric.name: metric for metric in report.metrics}
    return next((by_name[name] for name in (JUDGE, *WITHOUT_TRUTH) if name in by_name), report.metrics[0])


def _verdict(report: Report, peers: list[str]) -> Verdict:
    ran = f"the model with the paper's steps on {len(report.sections[0].stems)} pictures"
    if not peers:
        return Verdict(None, "no other method's results were given", ran)
    metric, found = judge_of(report), []
    holds: bool | None = True
    for section in report.sections:
        rows = section.rows_by_name
        ours = rows[PATCHSCALER]
        best = metric.best([rows[name].mean(metric.name) for name in peers])
        rival = next((name for name in peers if rows[name].mean(metric.name) == best), peers[0])
        ahead = difference(*([row.values[metric.name][stem] for stem in section.stems] for row in (ours, rows[rival])))
        better = ahead.falls if metric.better == "lower" else ahead.rises
        holds = None if better is None or holds is None else holds and better
        where = f"{section.condition}: " if section.condition else ""
        found.append(f"{where}{ours.mean(metric.name):.{metric.digits}f}, {rival} {best:.{metric.digits}f} ({ahead})")
    return Verdict(holds, f"{metric.name}: {'; '.join(found)}", f"{ran}, against {', '.join(peers)}")


def _plot(report: Report) -> Any:
    from matplotlib.figure import Figure

    metric = judge_of(report)
    figure = Figure(figsize=(9, 1 + 0.9 * len(report.sections[0].rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [_name(row) for row in report.sections[0].rows]
    height = 0.8 / len(report.sections)
    for number, section in enumerate(report.sections):
        values = [row.mean(metric.name) for row in section.rows]
        places = [place + number * height for place in range(len(names))]
        axes.barh(
            places, [v if math.isfinite(v) else 0.0 for v in values], height, label=section.condition or "as given"
        )
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric.name}, {metric.better} is better")
    axes.legend(fontsize="small")
    return figure
