"""Files and results of the tests of batch jobs."""

import io

import fsspec
from PIL import Image

from patchscaler.cluster.manifest import Row
from patchscaler.cluster.reading import read_units
from patchscaler.cluster.sinks import Result
from patchscaler.cluster.sources import find_units
from patchscaler.imaging.metadata import NAME, PROCESSING_SOFTWARE


def results(*names: str, failed: str | None = None) -> list[Result]:
    done = [Result(Row(name, "done", result=f"{name}_x4.png"), name.encode()) for name in names]
    return [*done, *([Result(Row(failed, "failed", "bad"), None)] if failed else [])]


def marked(made: list[Result]) -> list[Result]:
    """The same with files that bear our mark."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[PROCESSING_SOFTWARE] = NAME
    Image.new("L", (2, 2)).save(file, "PNG", exif=exif)
    return [result._replace(data=file.getvalue()) for result in made]


def put(root: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
            file.write(data)


def found(source: str, done: frozenset[str] = frozenset()) -> dict[str, bytes | None]:
    """Pictures of a source and their bytes, None where they fail."""
    return {each.key: each.data for each in read_units(find_units(source), done)}
