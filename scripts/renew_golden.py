"""Golden values of the bundled model: `python scripts/renew_golden.py` writes tests/inference/golden.json.

Run it after a change that is meant to change the result (new weights, another choice in the method), look at the
picture, and commit the file with the change.
"""

import json
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from patchscaler import PatchScalerPipeline

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "inference" / "golden.json"
PICTURE = "examples/noisy_parrot.png"
GAMMAS = (0.98, 0.93)  # with which it has patches of all three groups
CELLS = 8  # along each side
STEPS = (2, 4, 6)  # few, for speed


def measure() -> dict[str, Any]:
    """The bundled model's result in float32 on the CPU, in numbers: mean and standard deviation (row, column, channel)
    of each cell of a grid over the picture, patches per group, size."""
    pipeline = PatchScalerPipeline.from_pretrained(dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(ROOT / PICTURE, seed=0, steps=STEPS, gammas=GAMMAS, output_type="pt")
    cells = rearrange(result.images[0], "c (row h) (col w) -> row col c (h w)", row=CELLS, col=CELLS)
    return {
        "picture": PICTURE,
        "steps": list(STEPS),
        "size": list(result.images.shape[2:]),
        "patches": result.report.patches,
        "mean": rounded(cells.mean(dim=3)),
        "std": rounded(cells.std(dim=3, correction=0)),
    }


def rounded(values: torch.Tensor) -> Any:
    """Nested lists with five digits, well below the test's tolerance."""
    return (values.double() * 1e5).round().div(1e5).tolist()


if __name__ == "__main__":
    text = json.dumps(measure())
    GOLDEN.write_text(text.replace(', "', ',\n"').replace("]], [[", "]],\n[[") + "\n")
    print(f"wrote {GOLDEN}")
