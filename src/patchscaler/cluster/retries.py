"""Pictures that kill their worker are found out: a dead worker's work is done again, but not for ever."""

import os
import socket

from patchscaler.cluster.manifest import FOLDER, part_name
from patchscaler.cluster.storage import StoragePath
from patchscaler.errors import PatchScalerError

TRYING = "trying"
MOST = 3  # times that a picture is tried alone


def worker_name() -> str:
    """host:process."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Retries:
    """A file beside the manifest for each piece of work that is being done, with a line for each time it was begun."""

    def __init__(self, root: StoragePath) -> None:
        self.folder = root / FOLDER / TRYING

    def begin(self, keys: list[str]) -> int:
        """How many times this was begun and not ended: by workers that died."""
        file = self.folder / part_name(keys)
        before = file.read().decode().splitlines() if file.exists() else []
        file.write("".join(f"{line}\n" for line in (*before, worker_name())).encode())
        return len(before)

    def end(self, keys: list[str]) -> None:
        (self.folder / part_name(keys)).remove()

    def begin_alone(self, key: str) -> None:
        """As `begin` for one picture. Raises PatchScalerError where it was in vain too often."""
        if (times := self.begin([key])) >= MOST:
            raise PatchScalerError(f"its worker died each of {times} times it was tried; it may need more memory")

    def forget(self) -> None:
        """Of all work: the job is done."""
        if self.folder.exists():
            self.folder.fs.rm(self.folder.path, recursive=True)
