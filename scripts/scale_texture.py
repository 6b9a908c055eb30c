"""Patch-DiT with its texture prompt turned up or down: python scripts/scale_texture.py FOLDER OUT --by 0.5

Scales what the cross-attention of every block adds. How much of the prompt is best is a question to validation pictures
that the memory holds nothing of; training can't answer it.
"""

import argparse
from pathlib import Path

from patchscaler.models.patch_dit import PatchDiT


def scale(folder: Path, out: Path, by: float) -> None:
    patch_dit = PatchDiT.from_pretrained(folder)
    for name, parameter in patch_dit.named_parameters():
        if ".texture_out." in name:
            parameter.data.mul_(by)
    patch_dit.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a trained Patch-DiT")
    parser.add_argument("out", type=Path, help="folder for the scaled one")
    parser.add_argument("--by", type=float, required=True, help="1: as trained, 0: without the prompt")
    arguments = parser.parse_args()
    scale(arguments.folder, arguments.out, arguments.by)
