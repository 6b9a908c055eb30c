"""The options of a call as types, for type checkers: the pipeline's own call and `enlarge` take the same ones."""

from collections.abc import Sequence
from typing import TypedDict

import torch

from patchscaler.inference.habits import StepCallback
from patchscaler.inference.settings import OutputType, Quality
from patchscaler.report import PreviewCallback, ProgressCallback


class SamplingOptions(TypedDict, total=False):
    """What the pipeline's call takes beside the picture and what is to become of it; it documents them."""

    seed: int
    quality: Quality | None
    steps: Sequence[int] | None
    gammas: Sequence[float]
    taus: Sequence[int]
    budget: float | None
    workers: int | Sequence[str]
    split: str
    batch_size: int
    use_texture: bool
    denoise: float | None
    generator: torch.Generator | Sequence[torch.Generator] | None
    callback_on_step_end: StepCallback | None
    callback_on_step_end_tensor_inputs: Sequence[str]
    on_preview: PreviewCallback | None


class CallOptions(SamplingOptions, total=False):
    """All that the pipeline's call takes beside the picture and return_dict."""

    scale: int
    output_type: OutputType
    on_progress: ProgressCallback | None
