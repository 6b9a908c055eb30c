"""What users of diffusers are used to beside the pictures: callbacks per step, interrupts, a progress bar, batches."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.options import Options
from patchscaler.pgs.sampling import StepEnd
from patchscaler.report import Progress
from patchscaler.stages.canvas import LatentCanvas
from patchscaler.stages.executor import Executor
from patchscaler.stages.restore import CoarseLatents
from patchscaler.stages.task import Task
from patchscaler.upscaler import Upscaler

# (pipeline, step, timestep, {"latents": ...}) -> a dictionary with latents to go on with, or None
StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


class Calls:
    """The calls of one pipeline that are running, and which of them have been interrupted."""

    def __init__(self) -> None:
        self._running: list[Call] = []
        self._last = Call()

    @contextmanager
    def running(self) -> Iterator["Call"]:
        """A call of this thread, while it runs."""
        call = Call()
        self._running.append(call)
        try:
            yield call
        finally:
            self._running.remove(call)
            self._last = call

    def interrupt(self, wanted: bool) -> None:
        """The call of this thread, whose callback it is; from another thread, all calls."""
        for call in self._of_thread() or self._running:
            call.interrupted = wanted

    @property
    def interrupted(self) -> bool:
        """Whether the call of this thread has been; where none is running, the last one."""
        return any(call.interrupted for call in self._of_thread() or self._running or [self._last])

    def _of_thread(self) -> "list[Call]":
        return [call for call in self._running if call.thread == threading.get_ident()][-1:]


class Call:
    """One call, in the thread that made it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.interrupted = False


def step_end(
    pipe: Any, call: Call, callback: StepCallback | None, names: Sequence[str], workers: int | Sequence[str]
) -> StepEnd:
    """diffusers' `callback_on_step_end` as the sampler calls it; an interrupted call stops the sampling.

    Raises ConfigError for other tensors than the latents, and for a callback with workers.
    """
    if set(names) - {"latents"}:
        raise ConfigError(f"callback_on_step_end_tensor_inputs {list(names)}: latents are all there is")
    if callback and workers != 1 and (isinstance(workers, int) or len(workers) > 1):
        raise ConfigError("callback_on_step_end sees patches of this process only: leave workers out")

    def end(step: int, time: int, latents: NDArray[np.float32]) -> NDArray[np.float32] | None:
        if callback and not call.interrupted:
            tensor = torch.from_numpy(latents).to(pipe._execution_device)
            answer = callback(pipe, step, torch.tensor(time), dict.fromkeys(names, tensor))
            latents = (answer or {}).get("latents", tensor).float().cpu().numpy()
        return None if call.interrupted else latents

    return end


@contextmanager
def step_bar(pipe: Any) -> Iterator[Callable[[Progress], None]]:
    """An `on_progress` that draws diffusers' bar, one patch-step a unit, from the first of them on."""
    bar: Any = None

    def show(progress: Progress) -> None:
        nonlocal bar
        if progress.stage == "sample":
            bar = bar or pipe.progress_bar(total=progress.total)
            bar.update(progress.done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def seeds_of(count: int, seed: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> list[int]:
    """A seed for each of `count` pictures: drawn by a generator for all, by one for each, or the same. Raises
    ConfigError for another number of generators."""
    if generator is None:
        return [seed] * count
    generators = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
    if len(generators) != count:
        raise ConfigError(f"{len(generators)} generators for {count} pictures: give one for each, or one for all")
    return [int(torch.randint(2**62, (), generator=own, device=own.device)) for own in generators]


class PipelineUpscaler(Upscaler):
    """The Upscaler of one call of the pipeline.

    on_step_end  see `step_end`
    on_options   called with the options that the patches are sampled with
    as_latents   the blended latents are the result
    """

    def __init__(
        self, executor: Executor, on_step_end: StepEnd, on_options: Callable[[Options], None], as_latents: bool
    ) -> None:
        super().__init__(engine=executor.engine, executor=executor)
        self.on_step_end, self.on_options, self.as_latents = on_step_end, on_options, as_latents

    def restore(self, task: Task) -> CoarseLatents:
        task.on_step_end, task.on_options = self.on_step_end, self.on_options
        if self.as_latents:
            task.canvas = LatentCanvas()
        return super().restore(task)


def dtype_argument(dtype: torch.dtype | dict[str, torch.dtype]) -> dict[str, Any]:
    """The precision, or one for each part, as an argument of diffusers' `from_pretrained`, which has renamed it and
    warns of the old name."""
    from diffusers.utils import deprecation_utils

    return {"dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype": dtype}
