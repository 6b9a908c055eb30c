"""Write docs/replication.md from what `patchscaler experiment` left: python scripts/write_replication.py [RESULTS].

RESULTS is the folder named with `-o`. Each results.json in it is copied to docs/replication/EXPERIMENT.json, its plot
beside it, and the page is written from the copies: every figure in it was measured by an experiment. Without RESULTS
the page is written anew from the copies there are. Maps of groups stay where they are: they show the pictures, which
have licences of their own.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from patchscaler.measure.experiments.catalogue import CATALOGUE, CLAIMS, Claim
from patchscaler.measure.experiments.record import RESULTS, origin, plot_of, tables_markdown

PAGE = Path(__file__).parents[1] / "docs" / "replication.md"
KEPT = PAGE.with_suffix("")  # docs/replication/

HEAD = """# The paper's claims, tried

*Lab notes: the paper's claims, tried with the bundled weights.*

Every claim of *PatchScaler* (arXiv 2405.17158) that its tables and figures make, what was run here, and what came out.
The authors released neither code nor weights, so what can be tried is whether the *trends* hold for an open model made
by the same method: a much smaller one, trained for hours on two processor cores and for 23 minutes on one GPU.
Absolute figures of the paper are neither expected nor claimed.

This page is written by `scripts/write_replication.py` from the JSON files in `docs/replication/`; no figure in it is
typed. Run it yourself, on any folder of sharp pictures and on any hardware ([experiments.md](experiments.md)):

```
patchscaler experiment all --data PICTURES -o results
python scripts/write_replication.py results
```

A difference is given as the mean over pictures and its standard error, and counts when it is more than twice that
error. LPIPS is the one with AlexNet; lower is better.

"""


def collect(results: Path) -> None:
    """Copies the records and plots of a folder of results."""
    KEPT.mkdir(exist_ok=True)
    found = sorted(results.glob(f"*/{RESULTS}"))
    if not found:
        sys.exit(f"{results}: no {RESULTS} in its folders; run `patchscaler experiment` with -o {results}")
    for path in found:
        values = json.loads(path.read_text(encoding="utf-8"))
        name = values["experiment"]
        shutil.copyfile(path, KEPT / f"{name}.json")
        shutil.copyfile(path.with_name(plot_of(name)), KEPT / plot_of(name))


def write() -> str:
    """The page, from the records that are kept."""
    records = {
        name: json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))
        for name in CATALOGUE
        if (KEPT / f"{name}.json").exists()
    }
    lines = [HEAD, "| | claim | what we ran | our figure | |\n|---|---|---|---|---|\n"]
    for key, claim in CLAIMS.items():
        lines.append(_row(key, claim, records.get(claim.experiment)))
    for name, entry in CATALOGUE.items():
        lines.append(f"\n## {name}\n\n{entry.shows}.\n\n")
        if name not in records:
            reason = next((claim.reason for claim in CLAIMS.values() if claim.experiment == name), "")
            lines.append(f"Can't be run here: {reason}.\n" if reason else "Not run yet.\n")
            continue
        values = records[name]
        lines.append(origin(values) + "\n\n")
        lines.append("\n".join(tables_markdown(values)) + "\n")
        lines.append(f"![{name}](replication/{plot_of(name)})\n")
    return "".join(lines)


def _row(key: str, claim: Claim, values: dict[str, Any] | None) -> str:
    verdict = {} if values is None else values["verdicts"].get(key, {})
    if verdict:
        word = {True: "**holds**", False: "**doesn't hold**", None: "can't be told here"}[verdict["holds"]]
        return f"| {claim.source} | {claim.text} | {verdict['ran']} | {verdict['figure']} | {word} |\n"
    reason, word = (claim.reason, "can't be run here") if claim.reason else ("", "not run yet")
    return f"| {claim.source} | {claim.text} | {claim.experiment and f'`{claim.experiment}`'} | {reason} | {word} |\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    PAGE.write_text(write(), encoding="utf-8")
    print(f"wrote {PAGE}")
