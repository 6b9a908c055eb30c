"""Do the borders of patches show? python scripts/measure_seams.py PICTURES [--condition mild] [--steps 0,3,4]

Each picture is reduced x4 and enlarged again. The steepness of the result at patch borders, against other lines of the
grid of tokens (metrics/seams.py), is divided by that of the restorer's own picture, which knows no patches: 1 is no
seam. Printed per picture, with its patches of each group, then the mean and the largest; from pixel to pixel and
between the means of 8x8 cells.
"""

import argparse
from pathlib import Path

import torch

from patchscaler import PatchScalerPipeline
from patchscaler.cli.upscale import parse_steps
from patchscaler.data.pairs import CONDITIONS, validation_pictures
from patchscaler.imaging.geometry import Size
from patchscaler.metrics.seams import measure_seams, patch_borders

SCALES = (1, 8)
GRID = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", help="folder or hub id; the bundled one if left out")
    parser.add_argument("--condition", choices=CONDITIONS, default="mild")
    parser.add_argument("--steps", default="0,3,4")
    arguments = parser.parse_args()
    pipeline = PatchScalerPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for picture in validation_pictures(arguments.pictures, arguments.condition):
        low = picture.lr[0]
        result = pipeline(low, steps=parse_steps(arguments.steps), output_type="pt")
        alone = pipeline(low, steps=(0, 0, 0), output_type="pt").images
        size = Size(*alone.shape[-2:])
        borders = patch_borders(result.patch_boxes, size)
        seams = [[measure_seams(x, *borders, scale, GRID).ratio for scale in SCALES] for x in (result.images, alone)]
        ratios = [ours / own for ours, own in zip(*seams, strict=True)]
        rows.append(ratios)
        groups = ",".join(map(str, result.report.patches.values()))
        print(f"{picture.path.stem[:40]:40} patches {groups:10}", *(f"{ratio:.3f}" for ratio in ratios), flush=True)
    table = torch.tensor(rows)
    for name, values in (("mean", table.mean(dim=0)), ("largest", table.amax(dim=0))):
        print(f"{name:59}", *(f"{value:.3f}" for value in values))


if __name__ == "__main__":
    main()
