"""A finished evaluation, and its JSON."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from patchscaler import __version__
from patchscaler.measure.quality.bars import Outcome
from patchscaler.measure.rows import Section
from patchscaler.metrics.choice import Metric


@dataclass(frozen=True)
class ModelFacts:
    """How the model ran. weights_mb: its weights in 10^6 bytes."""

    name: str
    steps: list[list[int]]
    seed: int
    dtype: str
    device: str
    weights_mb: float


@dataclass(frozen=True)
class Report:
    """sections: the rows with their figures; missing: why metrics were left out; outcomes: of the bars."""

    sections: list[Section]
    metrics: list[Metric]
    missing: dict[str, str]
    outcomes: list[Outcome]
    reference: str | None
    model: ModelFacts | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; null where a figure is no finite number."""
        return plain(
            {
                "patchscaler": __version__,
                "reference": self.reference,
                "model": None if self.model is None else asdict(self.model),
                "metrics": {
                    metric.name: {"label": metric.label, "better": metric.better, "convolutions_sha256": metric.sha256}
                    for metric in self.metrics
                },
                "not_measured": self.missing,
                "bars": [asdict(outcome) for outcome in self.outcomes],
                "conditions": [self._section(section) for section in self.sections],
            }
        )

    def _section(self, section: Section) -> dict[str, Any]:
        return {
            "condition": section.condition,
            "pictures": len(section.stems),
            "groups": section.groups,
            "rows": [
                {
                    "name": row.name,
                    "means": {metric.label: row.mean(metric.name) for metric in self.metrics},
                    "pictures": {
                        stem: {metric.name: row.values[metric.name][stem] for metric in self.metrics}
                        for stem in section.stems
                    },
                }
                for row in section.rows
            ],
        }


def plain(value: Any) -> Any:
    """Values that JSON has: floats to six digits, null where one is no finite number."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
