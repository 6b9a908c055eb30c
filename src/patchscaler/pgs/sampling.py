"""The sampling loop of PGS (Eq. 6 and 7) for any network: batches of patches come out, predictions go in.

One loop serves all groups. Their step lists are aligned at the end: when k steps remain, every patch whose group has at
least k steps is active, each at its own time. With the paper's values, 8/400 = 14/700 = 20/1000, this is one uniform
grid of 20 steps that medium patches join after 6 and simple ones after 12; other values need nothing special.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from patchscaler.errors import ConfigError
from patchscaler.imaging.shapes import Array, Indices
from patchscaler.pgs.groups import GroupConfig, plan

PredictionType = Literal["sample", "epsilon", "v_prediction"]

# After each step for all patches: (number of the step, 0 with all of the hardest group's still to come; the time of the
# hardest patches in it; the latents (B,c,V,V) as they are now) -> the latents to go on with, or None to leave all as
# they are
StepEnd = Callable[[int, int, Array], Array | None]


class Batch(NamedTuple):
    """Patches at their next step: rows (b,) of each, x_t (b,c,V,V), t (b,) and the time after the step."""

    rows: Indices
    x_t: Array
    t: Indices
    after: Indices


class Sampling:
    """Coarse patches (B,c,V,V) on their way to refined ones by deterministic DDIM, each from its group's start time.

        sampling = Sampling(coarse, groups, noise, alphas, config)
        for batch in sampling.batches():
            sampling.advance(batch, denoiser(batch.x_t, batch.t))
        sampling.latents

    coarse           the restorer's latents, y0
    groups           (B,) from `assign_groups`
    noise            (B,c,V,V) standard normal eps, a function of the place (`place_noise`)
    alphas           ᾱ_t of the schedule (T,)
    prediction_type  of what `advance` is given; its rows must not influence each other, then the batch size changes
                     nothing
    batch_size       the most patches in one batch
    on_step_end      see `StepEnd`

    latents, float32, are those of groups without steps as they came. Raises ConfigError for taus beyond T, an unknown
    prediction type or a batch size below 1.
    """

    def __init__(
        self,
        coarse: Array,
        groups: Indices,
        noise: Array,
        alphas: Array,
        config: GroupConfig,
        *,
        prediction_type: str = "sample",
        batch_size: int = 64,
        on_step_end: StepEnd | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size} must be at least 1")
        if prediction_type not in get_args(PredictionType):
            kinds = ", ".join(get_args(PredictionType))
            raise ConfigError(f"prediction type {prediction_type!r} must be one of {kinds}")
        self._times, steps = plan(config, len(alphas))
        self.groups, self.batch_size, self.prediction_type = groups, batch_size, prediction_type
        self.on_step_end = on_step_end
        self._alphas = np.append(alphas, 1).astype(np.float32)  # time -1 indexes the last one: the clean latent
        # Start on the way, Eq. 6: y_tau = sqrt(ᾱ_tau) y0 + sqrt(1 - ᾱ_tau) eps. Zero steps start, and stay, at y0.
        self._remaining = steps[groups]
        start = self._alpha(self._times[groups, self._remaining])
        self.latents: Array = start**0.5 * coarse + (1 - start) ** 0.5 * noise
        self.done, self.total = 0, int(self._remaining.sum())

    def batches(self) -> Iterator[Batch]:
        """All steps of all patches, Eq. 7: from tau to 0, patches joining when as many steps remain as they need. Each
        batch has to be advanced before the next is taken."""
        hardest = self._times.shape[1] - 1
        for k in range(hardest, 0, -1):
            active = np.flatnonzero(self._remaining >= k)
            for first in range(0, len(active), self.batch_size):
                rows = active[first : first + self.batch_size]
                times = self._times[self.groups[rows]]
                yield Batch(rows, self.latents[rows], times[:, k], times[:, k - 1])
            if self.on_step_end and len(active):
                time = int(self._times[self.groups[active].max(), k])
                changed = self.on_step_end(hardest - k, time, self.latents)
                if changed is None:
                    return
                self.latents = changed

    def advance(self, batch: Batch, prediction: Array) -> Array:
        """One step of the batch by its prediction (b,c,V,V); the clean latents (b,c,V,V) that the prediction means."""
        alpha, after = self._alpha(batch.t), self._alpha(batch.after)
        self.latents[batch.rows] = ddim_step(batch.x_t, prediction, alpha, after, self.prediction_type)
        self.done += len(batch.rows)
        return clean_latents(batch.x_t, prediction, alpha, self.prediction_type)

    def _alpha(self, times: Indices) -> Array:
        return self._alphas[times][:, None, None, None]


def runs(t: Indices) -> Iterator[slice]:
    """Rows of a batch that share a time step, which lie side by side."""
    edges = [0, *(np.flatnonzero(np.diff(t)) + 1).tolist(), len(t)]
    return (slice(first, last) for first, last in pairwise(edges))


def side_by_side(rows: Indices) -> slice | Indices:
    """Rows as a slice where they lie so, as they mostly do: it needs no copy."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def ddim_step(x: Any, prediction: Any, alpha: Any, alpha_next: Any, prediction_type: str) -> Any:
    """One deterministic DDIM step (Song et al., arXiv 2010.02502, Eq. 12 with sigma = 0). Arrays and tensors alike.

    x, prediction      (b,c,V,V)
    alpha, alpha_next  ᾱ before and after it, (b,1,1,1)
    """
    signal, spread = alpha**0.5, (1 - alpha) ** 0.5
    if prediction_type == "sample":
        eps = (x - signal * prediction) / spread
    elif prediction_type == "epsilon":
        eps = prediction
    else:
        eps = signal * prediction + spread * x
    return alpha_next**0.5 * clean_latents(x, prediction, alpha, prediction_type) + (1 - alpha_next) ** 0.5 * eps


def clean_latents(x: Any, prediction: Any, alpha: Any, prediction_type: str) -> Any:
    """What a prediction at ᾱ (b,1,1,1) says of the clean latents x0; the types as in diffusers' schedulers."""
    if prediction_type == "sample":
        return prediction
    signal, spread = alpha**0.5, (1 - alpha) ** 0.5
    if prediction_type == "epsilon":
        return (x - spread * prediction) / signal
    return signal * x - spread * prediction
