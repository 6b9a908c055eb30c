"""Degraded crops of training pictures as files, for another upscaler to enlarge: a teacher (`pairs.teacher`).

python scripts/write_pairs.py configs/teacher-pairs.toml -o runs/teacher --count 400

writes OUT/lr/N.png and OUT/hr/N.png, the ground truth. Have an upscaler enlarge OUT/lr x4 into a third folder, then
name that and OUT/lr in a run's settings.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from patchscaler.data.pairs import PairDataset, PairSettings
from patchscaler.data.pictures import PictureSet
from patchscaler.imaging.files import write_picture
from patchscaler.training.settings import build, read_toml


@dataclass(frozen=True)
class WrittenPairs:
    """Which crops to write; seed: of the draws."""

    pictures: PictureSet
    pairs: PairSettings = field(default_factory=lambda: PairSettings(crop=384))
    seed: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400)
    arguments = parser.parse_args()
    settings = build(WrittenPairs, read_toml(arguments.settings))
    dataset = PairDataset(settings.pictures, settings.pairs, settings.seed)
    for name in ("lr", "hr"):
        (arguments.out / name).mkdir(parents=True, exist_ok=True)
    for index in range(arguments.count):
        for name, pixels in dataset[index].items():
            write_picture(arguments.out / name / f"{index:05d}.png", pixels[None])


if __name__ == "__main__":
    main()
