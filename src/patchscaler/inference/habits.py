"""What users of diffusers are used to beside the pictures: callbacks per step, interrupts, a progress bar, batches."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchscaler.diffusion.pgs import StepEnd
from patchscaler.errors import ConfigError
from patchscaler.imaging.files import picture_from
from patchscaler.imaging.picture import Picture
from patchscaler.report import Progress

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

    def end(step: int, time: Tensor, latents: Tensor) -> Tensor | None:
        if callback and not call.interrupted:
            answer = callback(pipe, step, time, dict.fromkeys(names, latents))
            latents = (answer or {}).get("latents", latents)
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


def pictures_of(image: Any) -> tuple[list[Picture], bool]:
    """The pictures of a call, and whether it is for several: a list, or an array (n,H,W,C) or tensor (n,3,H,W) of more
    than one. Raises ConfigError for none at all, otherwise as `picture_from`."""
    several = isinstance(image, list | tuple)
    pictures = [picture for item in (image if several else [image]) for picture in _pictures_of_item(item)]
    if not pictures:
        raise ConfigError("no picture given: the list is empty")
    return pictures, several or len(pictures) > 1


def _pictures_of_item(item: Any) -> list[Picture]:
    if isinstance(item, Picture):
        return [item]
    stacked = isinstance(item, np.ndarray | Tensor) and item.ndim == 4
    return [picture_from(part) for part in item] if stacked else [picture_from(item)]


def seeds_of(count: int, seed: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> list[int]:
    """A seed for each of `count` pictures: drawn by a generator for all, by one for each, or the same. Raises
    ConfigError for another number of generators."""
    if generator is None:
        return [seed] * count
    generators = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
    if len(generators) != count:
        raise ConfigError(f"{len(generators)} generators for {count} pictures: give one for each, or one for all")
    return [int(torch.randint(2**62, (), generator=own, device=own.device)) for own in generators]
