"""Files anywhere: local paths and URLs of whatever fsspec knows, read whole and written whole or not at all."""

import os
import re
import time
import uuid
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from patchscaler.errors import ConfigError, ImageReadError, ImageWriteError

TRIES = 4  # of a read that fails for another reason than an absent file: networks have hiccups
PAUSE = 0.5  # seconds before the second try, doubled for each further one


class Place(NamedTuple):
    """A path within one of fsspec's file systems."""

    fs: Any
    path: str

    def __truediv__(self, name: str) -> "Place":
        return Place(self.fs, f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    @property
    def is_local(self) -> bool:
        return self.path.startswith("/") and "file" in _protocols(self.fs)

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    def exists(self) -> bool:
        return bool(self.fs.exists(self.path))

    def files(self) -> "list[Place]":
        """All files below, sorted; those in folders or with names that begin with a dot are left out."""
        root = self.path.rstrip("/")
        found = (path for path in self.fs.find(root) if path.startswith(root))
        return [Place(self.fs, p) for p in sorted(found) if not any(s[:1] == "." for s in p[len(root) :].split("/"))]

    def read(self) -> bytes:
        """The whole file. Raises ImageReadError after some tries."""
        for number in range(1, TRIES + 1):
            try:
                data = self.fs.cat_file(self.path)
                return data if isinstance(data, bytes) else bytes(data)
            except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
                raise ImageReadError(f"{self}: {_words(error)}; check the path") from error
            except Exception as error:  # each file system has errors of its own
                if number == TRIES:
                    raise ImageReadError(f"{self}: could not be read ({_words(error)}); try again later") from error
                time.sleep(PAUSE * 2 ** (number - 1))
        raise AssertionError

    def write(self, data: bytes) -> None:
        """Whole or not at all. Raises ImageWriteError."""
        partial = Place(self.fs, f"{self.path.rpartition('/')[0]}/.{uuid.uuid4().hex}.part")
        try:
            if not _has_folders(self.fs):  # an object store's upload is whole or not at all already
                self.fs.pipe_file(self.path, data)
                return
            self.fs.makedirs(self.path.rpartition("/")[0], exist_ok=True)
            try:
                with self.fs.open(partial.path, "wb") as file:
                    file.write(data)
                _replace(self.fs, partial.path, self.path)
            finally:
                if partial.exists():
                    self.fs.rm_file(partial.path)
        except Exception as error:
            raise ImageWriteError(f"{self}: cannot be written ({_words(error)}); check place and space") from error

    def remove(self) -> None:
        if self.exists():
            self.fs.rm_file(self.path)


def place_of(url: str) -> Place:
    """Raises ConfigError for a protocol that is unknown or needs another package."""
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url}: {_words(error)}") from error
    return Place(fs, path)


def is_own_leftover(name: str) -> bool:
    """Whether a file's name is that of a write that was cut off."""
    return re.fullmatch(r"\.[0-9a-f]{32}\.part", name) is not None


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _has_folders(fs: Any) -> bool:
    return bool({"file", "local", "memory", "sftp", "ssh", "hdfs", "arrow_hdfs", "smb"} & set(_protocols(fs)))


def _replace(fs: Any, before: str, after: str) -> None:
    if "file" in _protocols(fs):
        os.replace(before, after)  # fsspec's own move copies where it may
    else:
        fs.mv(before, after)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split()) or repr(error)
