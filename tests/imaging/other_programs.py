"""Files of other programs, enlarged, and the results seen by other programs: every line of the table in docs/files.md.

    python -m pytest tests/imaging/other_programs.py

Not among the tests that run by themselves: needs ImageMagick 6 (convert, identify), exiftool, heif-enc, heif-convert,
avifenc. A line that isn't in the table is what the table should say.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from icc_profiles import SRGB
from pages import ROOT
from patchscaler import Upscaler
from patchscaler.errors import PatchScalerError
from patchscaler.imaging.files import losses, read_picture
from real_files import Case, other_files, pillow_files, tool

pytestmark = pytest.mark.filterwarnings("default")  # decoders warn of what they mend

CASES = [*pillow_files(), *other_files()]
TABLE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8").partition("<!-- table -->")[2]
SCALE = 2
TOLERANCE = 2.5 / 255  # mean difference of a result, reduced to the source's size, from the source
ORIENTATIONS = {1: "TopLeft", 5: "LeftTop"}
FACTS = [
    "Make",
    "DateTimeOriginal",
    "GPSLatitude",
    "City",
    "Caption-Abstract",
    "ExposureTime",
    "XResolution",
    "Comment",
]
NAMES = {"City": "XMP", "Caption-Abstract": "IPTC", "XResolution": "DPI", "GPSLatitude": "GPS", "Make": "EXIF"}


def seen(path: Path, size: tuple[int, int], ground: str) -> np.ndarray:
    """(H,W,3) in [0, 1]: what ImageMagick shows of a file in sRGB, upright, on a ground of one colour."""
    profile = path.with_name("srgb.icc")
    profile.write_bytes(SRGB)
    turn = (
        ORIENTATIONS[facts(path).get("Orientation", 1)] if path.suffix == ".webp" else None
    )  # which it overlooks there
    upright = ["-orient", turn, "-auto-orient"] if turn else ["-auto-orient"]
    flat = [*upright, "-background", ground, "-alpha", "remove", "-alpha", "off"]
    managed = ["-profile", profile] if given_profile(path) else []
    options = [*flat, *managed, "-colorspace", "sRGB", "-type", "TrueColor", "-filter", "Box"]
    if path.suffix == ".heic":  # whose profile and alpha it overlooks
        path, heic = path.with_name("heic.png"), path
        tool("heif-convert", heic, path)
    raw = tool("convert", f"{path}[0]", *options, "-resize", f"{size[1]}x{size[0]}!", "-depth", "16", "rgb:-")
    return np.frombuffer(raw, "<u2").reshape(*size, 3) / 65535


def facts(path: Path) -> dict[str, Any]:
    names = [f"-{name}" for name in [*FACTS, "Orientation#", "ImageHistory", "ResolutionUnit#", "PixelsPerUnitX"]]
    return json.loads(tool("exiftool", "-j", "-m", *names, path))[0]


def dots_per_inch(said: dict[str, Any]) -> float | None:
    if "PixelsPerUnitX" in said:  # of a PNG, in a metre
        return float(said["PixelsPerUnitX"]) * 0.0254
    if "XResolution" not in said or said.get("ResolutionUnit") == 1:
        return None
    return float(said["XResolution"]) * (2.54 if said.get("ResolutionUnit") == 3 else 1)


def judge(upscaler: Upscaler, case: Case, folder: Path) -> tuple[str, str]:
    """("right", what came out), ("refused", the words) or ("WRONG", why)."""
    path = folder / case.name
    try:
        case.make(path)
    except subprocess.CalledProcessError as error:
        return "WRONG", f"cannot be made: {error.stderr.decode()[:200]}"
    try:
        result = upscaler(path, scale=SCALE, steps=(0, 0, 0))
        out = path.with_name(f"out{case.out}")
        result.save(out, lossless=case.out == ".webp")
    except PatchScalerError as error:
        words = str(error).removeprefix(f"{path}: ")
        return ("refused" if case.refused and re.search(case.refused, words) else "WRONG"), words
    if case.refused:
        return "WRONG", "not refused"
    wrong, kept = compare(case, path, out)
    kind = {".jpg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".png": "PNG"}[case.out]
    lost = losses(read_picture(path), kind)
    if wrong:
        return "WRONG", "; ".join(wrong)
    return "right", "; ".join([", ".join([kind.replace("WEBP", "WebP"), *kept]), *lost])


def compare(case: Case, path: Path, out: Path) -> tuple[list[str], list[str]]:
    """What is wrong with a result, and what was found kept, by programs that are not ours."""
    wrong, kept = [], []
    with Image.open(out) as image:
        image.load()
        if image.size != (SCALE * case.upright[1], SCALE * case.upright[0]):
            wrong.append(f"size {image.height}x{image.width}")
        ground = "white" if case.out == ".jpg" else "gray(50%)"
        shown = path
        if case.looks:
            shown = path.with_name("looks.png")
            case.looks.save(shown)
        source, profile = seen(shown, case.upright, ground), image.info.get("icc_profile")
        difference = float(np.abs(seen(out, case.upright, ground) - source).mean())
        if difference > TOLERANCE:
            wrong.append(f"colours differ by {255 * difference:.1f}/255")
        has = {"profile": profile is not None and profile == given_profile(path), "alpha": image.has_transparency_data}
        has["grey"] = image.mode in ("L", "LA", "1", "I;16")
    if case.out == ".tif":
        with tifffile.TiffFile(out) as read:
            has["16 bits"] = read.pages[0].dtype == np.uint16
            has["alpha"] = len(read.pages[0].extrasamples) > 0
    else:
        depth = int(tool("identify", "-format", "%z", f"{out}[0]"))
        has["16 bits"] = depth == 16
    before, after = facts(path), facts(out)
    for name in FACTS:
        same = before.get(name) is not None and before.get(name) == after.get(name)
        if name == "XResolution" and (dpi := dots_per_inch(before)):
            same = abs((dots_per_inch(after) or 0) - dpi) < 1
        has[name] = same
    if after.get("Orientation", 1) != 1:
        wrong.append(f"orientation {after['Orientation']}")
    if "PatchScaler" not in str(after.get("ImageHistory")):
        wrong.append("no history")
    wrong += [f"no {NAMES.get(name, name)}" for name in case.keeps if not has[name]]
    kept += [NAMES.get(name, name) for name in case.keeps if has[name]]
    return wrong, kept


def given_profile(path: Path) -> bytes | None:
    try:
        with Image.open(path) as image:
            return image.info.get("icc_profile")
    except OSError:
        return None


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(engine="onnx")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_table_says_what_comes_out(case: Case, upscaler: Upscaler, tmp_path: Path) -> None:
    verdict, words = judge(upscaler, case, tmp_path)
    assert f"| {case.name} | {case.maker} | {case.special} | {verdict} | {words} |" in TABLE


def test_the_table_has_no_other_lines() -> None:
    right, refused = (TABLE.count(f"| {verdict} |") for verdict in ("right", "refused"))
    assert right + refused == len(CASES)
    assert f"{len(CASES)} files: {right} right, {refused} refused." in TABLE
