"""What an experiment found, and how it is kept: JSON, a Markdown page, plots, in one folder."""

import hashlib
import json
import math
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from patchscaler import __version__
from patchscaler.measure.experiments.setting import Setting
from patchscaler.measure.quality.report import plain
from patchscaler.measure.speed.machine import describe
from patchscaler.storage import model_folder

RESULTS = "results.json"
PAGE = "README.md"


@dataclass(frozen=True)
class Table:
    """columns: names with the digits behind the point of their numbers; rows: a value for each column, or None."""

    title: str
    columns: list[tuple[str, int]]
    rows: list[list[Any]]

    def markdown(self) -> str:
        lines = [f"| {' | '.join(name for name, _ in self.columns)} |"]
        lines.append("|" + "---|" + "---:|" * (len(self.columns) - 1))
        for row in self.rows:
            cells = (number(value, digits) for value, (_, digits) in zip(row, self.columns, strict=True))
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Verdict:
    """What became of a claim: holds (None: it can't be told here), our figures in words, and of what."""

    holds: bool | None
    figure: str
    ran: str


@dataclass
class Record:
    """One experiment's outcome.

    settings   what it varied
    inputs     names of the pictures
    verdicts   by the claims' keys in catalogue.CLAIMS
    plot       a matplotlib figure
    maps       PIL pictures by file name; they show what was enlarged, so its licence is theirs
    """

    experiment: str
    setting: Setting
    settings: dict[str, Any]
    inputs: list[str]
    tables: list[Table] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    plot: Any = None
    maps: dict[str, Image.Image] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; null where a figure is no finite number."""
        return plain(
            {
                "experiment": self.experiment,
                "patchscaler": __version__,
                "commit": commit(),
                "date": time.strftime("%Y-%m-%d"),
                "seconds": round(self.seconds, 1),
                "machine": describe(self.setting.device),
                "weights_sha256": weights_digest(Path(model_folder(self.setting.model))),
                "setting": self.setting.as_dict(),
                "varied": self.settings,
                "pictures": self.inputs,
                "verdicts": {key: asdict(verdict) for key, verdict in self.verdicts.items()},
                "tables": [asdict(table) for table in self.tables],
                "maps": sorted(self.maps),
            }
        )

    def write(self, folder: Path) -> Path:
        """Writes everything to FOLDER/EXPERIMENT, which it returns."""
        place = folder / self.experiment
        place.mkdir(parents=True, exist_ok=True)
        values = self.as_dict()
        (place / RESULTS).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        (place / PAGE).write_text(page(values), encoding="utf-8")
        self.plot.savefig(place / plot_of(self.experiment), dpi=110)
        for name, picture in self.maps.items():
            picture.save(place / name)
        return place


def plot_of(experiment: str) -> str:
    """The file name of an experiment's plot."""
    return f"{experiment}.png"


def page(values: dict[str, Any]) -> str:
    """A record as Markdown."""
    lines = [f"# {values['experiment']}\n", origin(values) + "\n"]
    for verdict in values["verdicts"].values():
        word = {True: "holds", False: "doesn't hold", None: "can't be told"}[verdict["holds"]]
        lines.append(f"- **{word}**: {verdict['figure']} ({verdict['ran']})")
    lines.append("")
    lines += tables_markdown(values)
    lines += [f"![{name}]({name})\n" for name in (plot_of(values["experiment"]), *values["maps"])]
    return "\n".join(lines)


def tables_markdown(values: dict[str, Any]) -> list[str]:
    """Title and rows of each of a record's tables."""
    found = []
    for table in values["tables"]:
        columns = [(name, digits) for name, digits in table["columns"]]
        found.append(f"**{table['title']}**\n\n{Table(table['title'], columns, table['rows']).markdown()}")
    return found


def origin(values: dict[str, Any]) -> str:
    """Where a record's numbers come from, in one paragraph."""
    machine, setting = values["machine"], values["setting"]
    device = f", {machine['device']}" if "device" in machine else ""
    borrowed = f", pipeline `{setting['backbone']}`" if setting.get("backbone") else ""
    version = f"commit {values['commit']}" if values["commit"] else f"version {values['patchscaler']}"
    return (
        f"Model `{setting['model']}` (weights {values['weights_sha256'][:12]}){borrowed}, "
        f"{len(values['pictures'])} pictures of `{setting['data']}`, seed {setting['seed']}, "
        f"{setting['device']}, {setting['dtype']}; "
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads{device}, "
        f"torch {machine['torch']}; {version}, "
        f"{values['date']}, {values['seconds'] / 60:.1f} minutes."
    )


def number(value: Any, digits: int) -> str:
    """A value for people; empty for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else str(value)


def commit() -> str | None:
    """Of the source this runs from, with "-dirty" where it was changed since; None outside a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here.parent), *arguments], capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", here.name) is None:  # a checkout around an installed package isn't its source
        return None
    head, changes = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--", str(here.parents[1]))
    return None if head is None else head + ("-dirty" if changes else "")


def weights_digest(folder: Path) -> str:
    """SHA-256 over all weights of a model folder, which names them however they are called."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
