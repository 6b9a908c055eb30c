"""The report as one HTML file that needs nothing beside it."""

import itertools
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from patchscaler import __version__
from patchscaler.measure.models import CEILING
from patchscaler.measure.quality.bars import Outcome
from patchscaler.measure.quality.crops import format_value, make_strip, ranking_metric, worst_first
from patchscaler.measure.quality.measure import GAIN
from patchscaler.measure.quality.report import Report
from patchscaler.measure.rows import Section
from patchscaler.metrics.lpips import load_lpips

TEMPLATE = "page.html.j2"


def render(report: Report, pictures: int, features: Path | None = None) -> str:
    """The page: bars, tables, and strips of crops of so many pictures of each condition (all when 0), the worst first.

    features  see `load_convolutions`; they find the worst place where LPIPS (alex) was measured
    """
    metric = ranking_metric(report.metrics)
    lpips = load_lpips("alex", features) if any(m.name == "lpips_alex" for m in report.metrics) else None
    sections = []
    for section in report.sections:
        stems = worst_first(section, metric)[: pictures or None]
        sections.append(
            {
                "name": section.condition or "results",
                "pictures": len(section.stems),
                "focus": section.focus,
                "rows": table_rows(report, section),
                "groups": group_rows(section),
                "strips": [make_strip(section, stem, metric, lpips) for stem in stems],
            }
        )
    loader = PackageLoader("patchscaler.measure.quality", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template(TEMPLATE).render(
        version=__version__,
        model=report.model,
        reference=report.reference,
        metrics=report.metrics,
        ranking=metric,
        missing=report.missing,
        bars=[
            {"claim": claim, "outcomes": [_outcome(outcome) for outcome in outcomes]}
            for claim, outcomes in itertools.groupby(report.outcomes, key=lambda outcome: outcome.claim)
        ],
        sections=sections,
    )


def table_rows(report: Report, section: Section) -> list[dict[str, Any]]:
    """For each row its name, whether it is the focus, and a cell for each metric: its text, and whether it is the best,
    among all but the ceiling, which has seen the ground truth."""
    contenders = [row for row in section.rows if row.name != CEILING]
    best = {metric.name: metric.best([row.mean(metric.name) for row in contenders]) for metric in report.metrics}
    rows = []
    for row in section.rows:
        cells = []
        for metric in report.metrics:
            value, counted = row.mean(metric.name), row.counted(metric.name)
            some = f" ({counted} of {len(section.stems)})" if 0 < counted < len(section.stems) else ""
            cells.append({"text": format_value(value, metric) + some, "best": value == best[metric.name]})
        rows.append({"name": row.name, "focus": row.name == section.focus, "cells": cells})
    return rows


def group_rows(section: Section) -> list[dict[str, Any]]:
    """For each group of patches its name, their number and share, and the values: before, after, gain."""
    found = []
    for name, figures in section.groups.items():
        values = [figures["before"], figures["after"], figures[GAIN]]
        texts = ["-" if math.isnan(value) else f"{value:.3f}" for value in values]
        share = f"{100 * figures['share']:.0f} %"
        found.append({"name": name, "patches": figures["patches"], "share": share, "values": texts})
    return found


def _outcome(outcome: Outcome) -> dict[str, Any]:
    word = {True: "holds", False: "fails", None: "not known"}[outcome.holds]
    return {
        "word": word,
        "kind": word.split()[0],
        "condition": outcome.condition,
        "text": outcome.text,
        "spread": "" if outcome.excess is None else f"per picture {outcome.excess}",
    }
