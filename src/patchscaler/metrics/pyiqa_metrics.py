"""MUSIQ, MANIQA and CLIPIQA through pyiqa (the extra `eval`), which fetches their weights when they are first used.

pyiqa's licences (PolyForm Noncommercial, NTU S-Lab) are not this project's: it is used where installed, never copied.
"""

import contextlib
import importlib.metadata
import io
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from patchscaler.errors import WeightsError


class PyiqaMetric(NamedTuple):
    """pyiqa's name, and what its weights were trained on."""

    name: str
    weights: str


PYIQA_METRICS = {
    "musiq": PyiqaMetric("musiq", "KonIQ-10k"),
    "maniqa_koniq": PyiqaMetric("maniqa", "KonIQ-10k"),
    "maniqa_pipal": PyiqaMetric("maniqa-pipal", "PIPAL"),
    "clipiqa": PyiqaMetric("clipiqa", "CLIP RN50"),
}


def load_pyiqa(name: str, device: str) -> tuple[str, Callable[[Tensor], float], Literal["higher", "lower"]]:
    """Label, scorer and better direction. Raises WeightsError where pyiqa is absent or its weights can't be fetched."""
    metric = PYIQA_METRICS[name]
    try:
        import pyiqa
    except Exception as error:  # a torchvision that was built for another torch raises RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f'{name} needs the extra "eval": pip install "patchscaler[eval]" ({reason})') from error
    version = importlib.metadata.version("pyiqa")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its remarks on downloads; stdout is for our table
            network: Any = pyiqa.create_metric(metric.name, device=torch.device(device))
    except Exception as error:  # whatever its many libraries raise without a network: HTTP, SSL, hub, file errors
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{name}: pyiqa {version} can't get the {metric.weights} weights ({type(error).__name__}: {reason}); "
            "try again with a network connection, or leave this metric out"
        ) from error

    def score(picture: Tensor) -> float:
        return float(network(picture.clamp(0, 1)))

    label = f"{name} ({metric.weights}, pyiqa {version})"
    return label, score, "lower" if network.lower_better else "higher"
