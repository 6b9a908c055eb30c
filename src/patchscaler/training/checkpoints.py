"""Published weights in their own forms: the authors' checkpoints, and ncnn's files of them."""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchscaler.errors import WeightsError

_HALF = 0x01306B47  # ncnn's mark of weights in half precision


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file in their order, float32, of the averaged weights where it has them. WeightsError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler says, it isn't a checkpoint that we read
        raise WeightsError(f"{path}: not a checkpoint: {error}") from error
    state = state.get("params_ema", state.get("params", state))
    return {name: value.float() for name, value in state.items()}


class NcnnFile:
    """ncnn's .bin, which holds weights in the order of the layers and nothing of their shapes.

    what  the network that it should hold, for WeightsError
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._data, self._place = path.read_bytes(), 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._place

    def values(self, count: int, kind: type[np.floating] = np.float32) -> Tensor:
        """The next so many numbers."""
        try:
            found = np.frombuffer(self._data, kind, count, self._place)
        except ValueError as error:
            raise WeightsError(f"{self.path}: not the .bin of {self.what}: {error}") from error
        self._place += (found.nbytes + 3) // 4 * 4
        return torch.from_numpy(found.astype(np.float32))

    def convolution(self, channels: int, read: int) -> tuple[Tensor, Tensor]:
        """Weight (channels,read,3,3) and bias of the next layer."""
        mark = struct.unpack_from("<I", self._data, self._place)[0] if self.left >= 4 else None
        if mark not in (0, _HALF):
            raise WeightsError(f"{self.path}: not the .bin of {self.what}")
        self._place += 4
        weight = self.values(channels * read * 9, np.float16 if mark else np.float32)
        return weight.view(channels, read, 3, 3), self.values(channels)

    def close(self) -> None:
        """Raises WeightsError unless everything has been read."""
        if self.left:
            raise WeightsError(f"{self.path}: {self.left} bytes are left over; not the .bin of {self.what}")
