"""The usual test sets: which folder is which, whether it is whole, and where each is obtained.

Counts and names are those of the published archives. Hashes are not invented: the first check of a folder writes those
of its files into SHA256SUMS, in the format of `sha256sum`, and later checks compare.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from patchscaler.data.reading import SUFFIXES
from patchscaler.errors import DataError
from patchscaler.imaging.unreadable import DECODE_ERRORS

MANIFEST = "SHA256SUMS"
HR_FOLDERS = ("test_HR", "gt", "GT", "HR", "hr", "HR/val")
LR_FOLDERS = ("test_LR", "lq", "LQ", "LR", "lr", "X4/val")


class Part(NamedTuple):
    """One folder of a set: its path within, its pictures, and the side of each in pixels where all are squares."""

    folder: str
    pictures: int
    side: int | None = None


@dataclass(frozen=True)
class Layout:
    """A test set as it is unpacked.

    landmarks    files in the first part that tell it from others of as many pictures; a set of one folder that has none
                 is known by the folder's name
    small_alone  its pictures are there to be enlarged, without a ground truth
    """

    name: str
    parts: tuple[Part, ...]
    unpacked: str
    obtained: str
    landmarks: tuple[str, ...] = ()
    small_alone: bool = False

    @property
    def by_name(self) -> bool:
        return not self.landmarks and self.parts[0].folder == "."


_STABLESR = "https://huggingface.co/datasets/Iceclear/StableSR-TestSets (StableSR_testsets.zip)"
LAYOUTS = (
    Layout("RealSR", (Part("test_HR", 100, 512), Part("test_LR", 100, 128)), "RealSRVal_crop128", _STABLESR),
    Layout("DRealSR", (Part("test_HR", 93, 512), Part("test_LR", 93, 128)), "DrealSRVal_crop128", _STABLESR),
    Layout("DIV2K-Val crops", (Part("gt", 3000, 512), Part("lq", 3000, 128)), "DIV2K_V2_val", _STABLESR),
    Layout(
        "DIV2K-Val",
        (Part(".", 100),),
        "DIV2K_valid_HR",
        "https://data.vision.ee.ethz.ch/cvl/DIV2K/",
        ("0801.png", "0900.png"),
    ),
    Layout("LSDIR validation", (Part("HR/val", 250),), "val1", "https://ofsoundof.github.io/lsdir-data/"),
    Layout(
        "RealSet65",
        (Part(".", 65),),
        "RealSet65",
        "https://github.com/zsyOAOA/ResShift (testdata/RealSet65)",
        ("00003.png", "ADE_val_00000114.jpg"),
        small_alone=True,
    ),
    Layout(
        "RealSet80",
        (Part(".", 80),),
        "RealSet80",
        "https://github.com/zsyOAOA/InvSR (testdata/RealSet80)",
        ("0030.jpg", "2684538-PH.jpg"),
        small_alone=True,
    ),
    Layout(
        "RealPhoto60", (Part(".", 60),), "RealPhoto60", "https://github.com/Fanghua-Yu/SUPIR (README)", small_alone=True
    ),
    Layout("RealLR200", (Part(".", 200),), "RealLR200", "https://github.com/cswry/SeeSR (README)", small_alone=True),
    Layout(
        "RealLQ250",
        (Part(".", 250),),
        "RealLQ250",
        "https://github.com/shallowdream204/DreamClear (README)",
        small_alone=True,
    ),
)


class Pairs(NamedTuple):
    """Folders of high- and low-resolution pictures that belong together."""

    hr: Path
    lr: Path


@dataclass(frozen=True)
class Finding:
    """What a folder is: its layout or None, pictures by subfolder, and what is wrong with it."""

    layout: Layout | None
    counts: dict[str, int]
    problems: list[str]


def pair_folders(folder: Path) -> Pairs | None:
    """The subfolders with HR and LR pictures, by the names that test sets use; None where there aren't both."""
    hr = next((folder / name for name in HR_FOLDERS if (folder / name).is_dir()), None)
    lr = next((folder / name for name in LR_FOLDERS if (folder / name).is_dir()), None)
    return None if hr is None or lr is None else Pairs(hr, lr)


def recognise(folder: Path) -> Finding:
    """Which test set the folder holds, by its subfolders, names and numbers of pictures. DataError for no folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; unpack the test set first (patchscaler data list)")
    files = _pictures(folder)
    counts = Counter(path.parent.relative_to(folder).as_posix() for path in files)
    fitting = [layout for layout in LAYOUTS if _fits(layout, folder, counts)]

    def likeness(layout: Layout) -> tuple[bool, bool]:
        return (
            all(counts[part.folder] == part.pictures for part in layout.parts),
            layout.unpacked.lower() in str(folder.resolve()).lower(),
        )

    layout = max(fitting, key=likeness, default=None)
    problems = [] if layout is None else _problems(layout, folder, counts)
    return Finding(layout, dict(sorted(counts.items())), problems)


def check_manifest(folder: Path, manifest: Path) -> list[str] | None:
    """Compares the folder's pictures with a manifest: one line for each that differs; None where it was written now.

    Raises DataError where the manifest can't be written or read.
    """
    now = {path.relative_to(folder).as_posix(): _sha256(path) for path in _pictures(folder)}
    if not manifest.exists():
        try:
            manifest.write_text("".join(f"{digest}  {name}\n" for name, digest in now.items()), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{manifest}: can't be written ({error.strerror}); name another with --manifest") from error
        return None
    lines = manifest.read_text(encoding="utf-8").splitlines()
    if any(line[64:66] not in ("  ", " *") for line in lines):
        raise DataError(f"{manifest}: not in the format of sha256sum; remove it to have it written anew")
    before = {line[66:]: line[:64] for line in lines}
    return (
        [f"{name}: missing" for name in before if name not in now]
        + [f"{name}: not in {manifest.name}" for name in now if name not in before]
        + [f"{name}: changed" for name in now if name in before and now[name] != before[name]]
    )


def _fits(layout: Layout, folder: Path, counts: Counter[str]) -> bool:
    if not all(counts[part.folder] for part in layout.parts):
        return False
    if layout.by_name and folder.resolve().name.lower() != layout.unpacked.lower():
        return False
    return all((folder / layout.parts[0].folder / name).exists() for name in layout.landmarks)


def _problems(layout: Layout, folder: Path, counts: Counter[str]) -> list[str]:
    found = []
    for part in layout.parts:
        if counts[part.folder] != part.pictures:
            found.append(f"{part.folder}: {counts[part.folder]} pictures, {layout.name} has {part.pictures}")
        if part.side is not None:
            wrong = [path for path in _pictures(folder / part.folder) if _size(path) != (part.side, part.side)]
            if wrong:
                found.append(f"{part.folder}: {len(wrong)} pictures are not {part.side}x{part.side}: {wrong[0].name}")
    names = [{path.name for path in _pictures(folder / part.folder)} for part in layout.parts]
    if len(names) == 2 and names[0] != names[1]:
        odd = sorted(names[0] ^ names[1])
        found.append(f"{len(odd)} pictures are in one of the two folders alone: {odd[0]}")
    return found


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except DECODE_ERRORS:
        return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
