"""Averages two trainings of the same parts, weight by weight.

    python scripts/average_weights.py BEFORE AFTER -o OUT --share 0.7 [--lean 0.7]

BEFORE and AFTER hold the same part folders (autoencoder, restorer, fusion, ...); OUT gets `share` of AFTER and the rest
of BEFORE, with AFTER's settings. `lean` is added to the logits with which a fusion weighs the second restorer.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FILE = "diffusion_pytorch_model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.5, help="of the later weights, 0 to 1")
    parser.add_argument("--lean", type=float, default=0.0)
    arguments = parser.parse_args()
    for part in sorted(folder.parent.name for folder in arguments.after.glob(f"*/{FILE}")):
        before, after = (load_file(folder / part / FILE) for folder in (arguments.before, arguments.after))
        if before.keys() != after.keys():
            parser.error(f"{part}: the two folders hold different networks")
        shutil.copytree(arguments.after / part, arguments.output / part, dirs_exist_ok=True)
        mixed = {name: torch.lerp(before[name].float(), after[name].float(), arguments.share) for name in after}
        if part == "fusion":  # its last layer: logits, correction and log error
            channels = (len(mixed["exit.bias"]) - 1) // 2
            mixed["exit.bias"][:channels] += arguments.lean
        save_file(
            {name: value.contiguous() for name, value in mixed.items()},
            arguments.output / part / FILE,
            {"format": "pt"},
        )
        print(f"wrote {arguments.output / part}")


if __name__ == "__main__":
    main()
