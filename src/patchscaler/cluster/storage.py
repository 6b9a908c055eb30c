"""Files anywhere: local paths and URLs of whatever fsspec knows, read whole and written whole or not at all."""

import os
import re
import time
import uuid
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from fsspec.core import url_to_fs

from patchscaler.errors import ConfigError, ImageReadError, ImageWriteError

TRIES = 4  # of a read that fails for another reason than an absent file: networks have hiccups
PAUSE = 0.5  # seconds before the second try, doubled for each further one
# Where a file grows while it is written. An object store's upload is whole or not at all already.
WITH_FOLDERS = {"file", "local", "memory", "sftp", "ssh", "hdfs", "arrow_hdfs", "smb"}


class StoragePath(NamedTuple):
    """A path within one of fsspec's file systems, of a file or folder."""

    fs: Any
    path: str

    @classmethod
    def at(cls, url: str) -> "StoragePath":
        """Raises ConfigError for a protocol that is unknown or needs another package."""
        try:
            return cls(*url_to_fs(url))
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{url}: {_words(error)}") from error

    def __truediv__(self, name: str) -> "StoragePath":
        return StoragePath(self.fs, f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    @property
    def is_local(self) -> bool:
        return self.path.startswith("/") and "file" in self._protocols

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def _protocols(self) -> tuple[str, ...]:
        protocol = self.fs.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def exists(self) -> bool:
        return bool(self.fs.exists(self.path))

    def is_folder(self) -> bool:
        return bool(self.fs.isdir(self.path))

    def files(self, hidden: bool = False) -> "list[StoragePath]":
        """All files below, sorted; hidden: also those in folders or with names that begin with a dot."""
        root = self.path.rstrip("/")
        found = [path for path in sorted(self.fs.find(root)) if path.startswith(root)]
        return [StoragePath(self.fs, path) for path in found if hidden or "/." not in path[len(root) :]]

    def read(self) -> bytes:
        """The whole file. Raises ImageReadError after some tries."""
        for number in range(1, TRIES + 1):
            try:
                return bytes(self.fs.cat_file(self.path))
            except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
                raise ImageReadError(f"{self}: {_words(error)}; check the path") from error
            except Exception as error:  # each file system has errors of its own
                if number == TRIES:
                    raise ImageReadError(f"{self}: could not be read ({_words(error)}); try again later") from error
                time.sleep(PAUSE * 2 ** (number - 1))
        raise AssertionError

    def write(self, data: bytes) -> None:
        """Whole or not at all. Raises ImageWriteError."""
        partial = f"{self.parent}/.{uuid.uuid4().hex}.part"
        try:
            if not WITH_FOLDERS.intersection(self._protocols):
                self.fs.pipe_file(self.path, data)
                return
            self.fs.makedirs(self.parent, exist_ok=True)
            try:
                with self.fs.open(partial, "wb") as file:
                    file.write(data)
                if "file" in self._protocols:
                    os.replace(partial, self.path)  # fsspec's own move copies where it may
                else:
                    self.fs.mv(partial, self.path)
            finally:
                StoragePath(self.fs, partial).remove()
        except Exception as error:
            raise ImageWriteError(f"{self}: cannot be written ({_words(error)}); check place and space") from error

    def remove(self) -> None:
        if self.exists():
            self.fs.rm_file(self.path)


def is_own_leftover(name: str) -> bool:
    """Whether a file's name is that of a write that was cut off."""
    return re.fullmatch(r"\.[0-9a-f]{32}\.part", name) is not None


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split()) or repr(error)
