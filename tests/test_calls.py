"""How many calls of ours lie between the command and a network: few enough to be read on the way."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import patchscaler
from command_files import Call
from patchscaler.cli.upscale import upscale as command
from patchscaler.models.folded_dit import FoldedDiT
from patchscaler.models.restorer import ConvRestorer

PACKAGE = Path(patchscaler.__file__).parent


class Reached(BaseException):
    """The network was."""


def calls_before(network: type, method: str, upscale: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Functions of ours, from the command to the GRM's or Patch-DiT's own code in `models`, that are waiting when
    `method` of a network begins."""

    def stop(*arguments: Any, **options: Any) -> Any:
        raise Reached

    monkeypatch.setattr(network, method, stop)
    return waiting(upscale)


def waiting(upscale: Callable[[], Any]) -> list[str]:
    """Functions of ours that are waiting when the network is reached."""
    with pytest.raises(Reached) as caught:
        upscale()
    paths = [(Path(frame.filename), frame.name) for frame in traceback.extract_tb(caught.tb)]
    names = [name for path, name in paths if PACKAGE in path.parents and path.parent != PACKAGE / "models"]
    return names[names.index(command.__name__) :]


@pytest.mark.parametrize(
    ("network", "method", "most"), [(ConvRestorer, "forward", 4), (FoldedDiT, "__call__", 6)], ids=["GRM", "Patch-DiT"]
)
@pytest.mark.parametrize("options", [(), ("--scale", "6"), ("--scale", "2.5")])
def test_few_calls_lead_to_a_network(
    upscale: Call, photo: Any, monkeypatch: pytest.MonkeyPatch, network: type, method: str, most: int, options: Any
) -> None:
    photo.save("p.png")
    calls = calls_before(network, method, lambda: upscale("p.png", *options), monkeypatch)
    assert len(calls) <= most, " > ".join(calls)


@pytest.mark.parametrize(("network", "most"), [("pixels", 4), ("x_t", 6)], ids=["GRM", "Patch-DiT"])
def test_few_calls_lead_to_a_network_of_the_light_engine(
    call: Call, photo: Any, monkeypatch: pytest.MonkeyPatch, network: str, most: int
) -> None:
    photo.save("p.png")
    run = onnxruntime.InferenceSession.run

    def stop(session: Any, outputs: Any, inputs: dict[str, Any]) -> Any:
        if network in inputs:
            raise Reached
        return run(session, outputs, inputs)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", stop)
    options = ("--engine", "onnx", "--denoise", "0", "--steps", "1,1,1")
    calls = waiting(lambda: call("upscale", "p.png", *options))
    assert len(calls) <= most, " > ".join(calls)
