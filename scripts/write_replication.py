"""Write docs/replication.md from what `patchscaler experiment` left: python scripts/write_replication.py [RESULTS].

RESULTS is the folder named with `-o`. Each results.json in it is copied to docs/replication/EXPERIMENT.json, its plot
beside it, and the page is written from the copies: every figure in it was measured by an experiment. Without RESULTS
the page is written anew from the copies there are; so is it after a change of the bundled weights, which marks what
older ones made. Maps of groups stay where they are: they show the pictures, which have licences of their own.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from patchscaler.measure.experiments.catalogue import CATALOGUE, CLAIMS, Claim
from patchscaler.measure.experiments.record import RESULTS, origin, plot_of, tables_markdown, weights_digest
from patchscaler.storage import model_folder

PAGE = Path(__file__).parents[1] / "docs" / "replication.md"
KEPT = PAGE.with_suffix("")  # docs/replication/
MECHANISMS = "mechanisms.txt"  # in KEPT, written by hand

HEAD = """# The paper's claims, tried

*Reference: every claim and every mechanism of the paper, and what became of it here.*

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

A difference is given as the mean over pictures with its 95 % interval, a paired bootstrap over the pictures, and counts
when the interval leaves 0 out. In records that give it with "±", that is its standard error, and it counts when it is
more than twice that. LPIPS is the one with AlexNet; lower is better.

The bundled weights are {digest}. What other weights made is marked **stale**: it was true of them.

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
    bundled = weights_digest(Path(model_folder(None)))
    stale = {name for name, values in records.items() if values["weights_sha256"] != bundled}
    lines = [HEAD.format(digest=bundled[:12])]
    lines.append("| | what the paper says | what we ran | our figure | |\n|---|---|---|---|---|\n")
    told = {key for values in records.values() for key in values["verdicts"]}
    tried = {key: claim for key, claim in CLAIMS.items() if key in told or not claim.reason}
    for key, claim in tried.items():
        lines.append(_row(key, claim, records.get(claim.experiment), claim.experiment in stale))
    lines.append("\n## What can't be run here\n\n| | what the paper says | why not |\n|---|---|---|\n")
    for key, claim in CLAIMS.items():
        if key not in tried:
            lines.append(f"| {claim.source} | {claim.text} | {claim.reason} |\n")
    lines.append(f"\n## Mechanisms\n\n{(KEPT / MECHANISMS).read_text(encoding='utf-8')}")
    for name, entry in CATALOGUE.items():
        lines.append(f"\n## {name}\n\n{entry.shows}.\n\n")
        if name not in records:
            reason = next((claim.reason for claim in CLAIMS.values() if claim.experiment == name), "")
            lines.append(f"Can't be run here: {reason}.\n" if reason else "Not run yet.\n")
            continue
        values = records[name]
        if name in stale:
            lines.append("**Stale**: made with other weights than those that are bundled now.\n\n")
        lines.append(origin(values) + "\n\n")
        lines.append("\n".join(tables_markdown(values)) + "\n")
        lines.append(f"![{name}](replication/{plot_of(name)})\n")
    return "".join(lines)


def _row(key: str, claim: Claim, values: dict[str, Any] | None, stale: bool) -> str:
    verdict = {} if values is None else values["verdicts"].get(key, {})
    if not verdict:
        return f"| {claim.source} | {claim.text} | `{claim.experiment}` |  | not run yet |\n"
    word = {True: "**holds**", False: "**doesn't hold**", None: "can't be told here"}[verdict["holds"]]
    word += ", stale" if stale else ""
    return f"| {claim.source} | {claim.text} | {verdict['ran']} | {verdict['figure']} | {word} |\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    PAGE.write_text(write(), encoding="utf-8")
    print(f"wrote {PAGE}")
