"""Files and results of the tests of batch jobs."""

import io

import fsspec
from PIL import Image

from patchscaler.cluster.manifest import Row
from patchscaler.cluster.sinks import Result
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
