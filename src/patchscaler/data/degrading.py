"""A folder of sharp pictures made small, the same way every time."""

import dataclasses
import json
from pathlib import Path

from patchscaler.data.pairs import CONDITIONS, validation_pictures
from patchscaler.errors import ConfigError, DataError
from patchscaler.imaging.files import write_picture

RECORD = "degradation.json"


def degrade_folder(
    pictures: Path, out: Path, condition: str, seed: int = 0, drawn: int = 0, side: int | None = None
) -> int:
    """Writes OUT/hr (sides cut to multiples of 16), OUT/lr (a quarter of them) and what was done; returns how many.

    The n-th picture's degradation is a function of (seed, n), as in `patchscaler evaluate --conditions`, whose seed is
    0. drawn, side: so many pictures alone, reduced and cut to squares, see `validation_pictures`.

    Raises ConfigError for an unknown condition and a folder that isn't empty, DataError as `validation_pictures` and
    for two pictures with one stem.
    """
    if condition not in CONDITIONS:
        raise ConfigError(f'condition "{condition}": choose from {", ".join(CONDITIONS)}')
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: not empty; name a new folder")
    for name in ("hr", "lr"):
        (out / name).mkdir(parents=True, exist_ok=True)
    stems: set[str] = set()
    for picture in validation_pictures(pictures, condition, seed, side, drawn, shrink=True):
        if picture.path.stem in stems:
            raise DataError(f"{picture.path}: another picture has the same stem; rename one of the two")
        stems.add(picture.path.stem)
        write_picture(out / "hr" / f"{picture.path.stem}.png", picture.hr.numpy())
        write_picture(out / "lr" / f"{picture.path.stem}.png", picture.lr.numpy())
    made = {"condition": condition, "seed": seed, "scale": 4, "pictures": len(stems), "drawn": drawn, "side": side}
    settings = dataclasses.asdict(CONDITIONS[condition])
    (out / RECORD).write_text(json.dumps(made | {"settings": settings}, indent=1) + "\n", encoding="utf-8")
    return len(stems)
