"""Other upscalers: folders of their results, their published checkpoints (through spandrel), or their commands.

`python -m patchscaler.measure.peers CHECKPOINT INPUT OUTPUT` enlarges one picture with a checkpoint.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from patchscaler.errors import ConfigError, DataError, WeightsError
from patchscaler.imaging.files import write_picture
from patchscaler.measure.models import Enlarged, Way
from patchscaler.measure.pairing import read_pixels

CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors")
SAID = 300  # characters of what a failing command said last


class Peer(NamedTuple):
    """Another upscaler and how its results are had.

    text     the folder, the checkpoint's file or the command, as it was given
    command  the words of a command with {input} and {output}; () for the others
    """

    name: str
    text: str
    command: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """From NAME=FOLDER (or FOLDER alone), NAME=FILE.pth or NAME=COMMAND, which has {input} and {output} in it and
        is split as a shell would. Raises ConfigError."""
        name, sign, place = text.partition("=")
        if not sign and "{input}" not in text and "{output}" not in text:
            name, place = Path(text).name, text
        if not (name.strip() and place.strip()):
            raise ConfigError(f'peer "{text}": give NAME=FOLDER, NAME=FILE.pth or NAME="COMMAND {{input}} {{output}}"')
        name = name.strip()
        if "{input}" not in place and "{output}" not in place:
            return cls(name, place)
        try:
            words = tuple(shlex.split(place))
        except ValueError as error:
            raise ConfigError(f'peer "{text}": {error}') from error
        for part in ("{input}", "{output}"):
            if not any(part in word for word in words):
                raise ConfigError(f'peer "{text}": the command has no {part}')
        return cls(name, place, words)

    @property
    def is_checkpoint(self) -> bool:
        return not self.command and Path(self.text).suffix in CHECKPOINTS

    @property
    def is_folder(self) -> bool:
        return not self.command and not self.is_checkpoint

    @property
    def short(self) -> str:
        """The text without the folders above, which say something of this machine alone."""
        return self.text if self.command else Path(self.text).name

    def call(self, source: Path, result: Path) -> list[str]:
        """The command that enlarges one picture. Raises ConfigError for a folder of results."""
        if self.is_folder:
            raise ConfigError(f'peer "{self.name}={self.text}": a folder of results has no time; give a command')
        if self.is_checkpoint:
            return [sys.executable, "-m", __name__, str(Path(self.text).resolve()), str(source), str(result)]
        return [word.replace("{input}", str(source)).replace("{output}", str(result)) for word in self.command]

    def way(self, device: str) -> Way:
        """Enlarges picture after picture; a checkpoint is loaded once. Raises WeightsError."""
        return _checkpoint_way(Path(self.text), device) if self.is_checkpoint else self._command_way()

    def _command_way(self) -> Way:
        def way(path: Path) -> Enlarged:
            with tempfile.TemporaryDirectory() as folder:
                result, started = Path(folder) / f"{path.stem}.png", time.perf_counter()
                words = self.call(path.resolve(), result)
                try:
                    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
                except OSError as error:
                    raise DataError(f"peer {self.name}: {words[0]} can't be started ({error.strerror})") from error
                seconds = time.perf_counter() - started
                if done.returncode or not result.exists():
                    said = " ".join((done.stderr or done.stdout).split())[-SAID:]
                    raise DataError(f"peer {self.name}: no result of {path.name}, code {done.returncode} ({said})")
                return Enlarged(read_pixels(result), {"seconds": seconds})

        return way


def load_checkpoint(path: Path, device: str) -> Any:
    """A published network in any of spandrel's architectures (RRDB, SwinIR, DAT, HAT, SPAN, ...), which it tells by the
    weights. Pickles are read without running what they hold. Raises WeightsError, ConfigError."""
    try:
        import spandrel
    except Exception as error:  # a torchvision that was built for another torch raises RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f'{path.name}: published checkpoints need spandrel: pip install "patchscaler[peers]", with the torchvision '
            f"that belongs to your torch ({reason})"
        ) from error
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; check the path")
    try:
        model = spandrel.ModelLoader(torch.device(device)).load_from_file(path)
    except Exception as error:  # whatever its architectures raise for weights that are none of theirs
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path}: spandrel doesn't know this network ({type(error).__name__} {reason}); run its own code as a "
            "command, NAME='... {input} ... {output}'"
        ) from error
    if not isinstance(model, spandrel.ImageModelDescriptor) or model.input_channels != 3:
        raise ConfigError(f"{path}: {model.architecture.name} for {model.purpose} is no upscaler of RGB pictures")
    return model.eval()


def _checkpoint_way(file: Path, device: str) -> Way:
    model = load_checkpoint(file, device)

    @torch.no_grad()
    def way(path: Path) -> Enlarged:
        pixels, started = read_pixels(path).to(device), time.perf_counter()
        result = model(pixels).float().cpu().clamp(0, 1)
        return Enlarged(result, {"seconds": time.perf_counter() - started})

    return way


if __name__ == "__main__":
    write_picture(Path(sys.argv[3]), _checkpoint_way(Path(sys.argv[1]), "cpu")(Path(sys.argv[2])).pixels.numpy())
