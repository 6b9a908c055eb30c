"""Which files of a folder are pictures, which are our own results, and which are something else."""

import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from patchscaler.errors import ImageReadError
from patchscaler.imaging.metadata import NAME, PROCESSING_SOFTWARE
from patchscaler.imaging.opening import file_of, open_picture

# Whatever we can read, by its name; a camera's raw file is none of them.
PICTURE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"}
    | {".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c", ".psd", ".tga", ".vda"}
    | {".icb", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".sgi", ".bw", ".rgb", ".rgba", ".qoi", ".dds", ".ico"}
    | ({".jxl"} if find_spec("pillow_jxl") else set())
)
MARKED_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "JXL")  # of results


class Contents(NamedTuple):
    """The files of a folder that aren't hidden, each list sorted: pictures by their names' endings, and the others."""

    pictures: list[Path]
    others: list[Path]


def search(folder: Path, recursive: bool = False) -> Contents:
    """Raises ImageReadError for a folder that may not be read."""
    try:
        found = folder.rglob("*") if recursive else folder.iterdir()
        files = sorted(file for file in found if file.name[0] != "." and file.is_file())
    except OSError as error:
        raise ImageReadError(f"{folder}: may not be searched ({error.strerror}); change its permissions") from error
    pictures = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]
    return Contents(pictures, [file for file in files if file.suffix.lower() not in PICTURE_SUFFIXES])


def find_pictures(paths: Iterable[str | Path], recursive: bool = False) -> list[Path]:
    """The files among `paths` as given, each directory replaced by its picture files, sorted; no file twice.

    Raises ImageReadError for a path that does not exist and for a directory without pictures.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = search(path, recursive).pictures
            if not inside:
                cure = "name another one" if recursive else "name another one (its subfolders are not searched)"
                raise ImageReadError(f"{path}: no pictures in this folder; {cure}")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise ImageReadError(f"{path}: no such file or directory; check the path")
    return list(dict.fromkeys(found))


def is_result(source: Path | bytes) -> bool:
    """Whether a picture's file bears our mark, EXIF's ProcessingSoftware; by its header, nothing is decoded."""
    try:
        with warnings.catch_warnings(), open_picture(file_of(source), formats=MARKED_FORMATS) as image:
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            if image.format == "GIF":  # which has no EXIF
                return image.info.get("comment") == NAME.encode()
            tags = Image.Exif()
            # Not `getexif`, which decodes a PNG in search of what may stand behind its pixels.
            tags.load(image.info.get("exif", b"")) if image.format != "TIFF" else tags.update(image.getexif())
            return str(tags.get(PROCESSING_SOFTWARE, "")).rstrip("\0 ") == NAME
    except Exception:  # whatever a decoder raises: what cannot be read bears no mark
        return False
