"""Files and results of the tests of batch jobs."""

import fsspec

from patchscaler.cluster.manifest import Row
from patchscaler.cluster.sinks import Result


def results(*names: str, failed: str | None = None) -> list[Result]:
    done = [Result(Row(name, "done", result=f"{name}_x4.png"), name.encode()) for name in names]
    return [*done, *([Result(Row(failed, "failed", "bad"), None)] if failed else [])]


def put(root: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
            file.write(data)
