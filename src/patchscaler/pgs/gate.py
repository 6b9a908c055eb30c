"""Whether the second restorer is asked: PGS's own idea, spending where it pays, one stage earlier."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAN = 2.0  # logits that the second restorer's weight gains from `denoise` 0.5 to 1


@dataclass(frozen=True)
class Gate:
    """limit  on the expected gain in LPIPS, from which on a place wants the second restorer
    reach  latents around a place whose mean gain decides
    share  of the places expected to gain, from which on it is asked, for the whole picture
    """

    limit: float
    reach: int
    share: float

    def denoise(self, gain: NDArray[np.float32]) -> float:
        """How much the second restorer shall count, by the gain (1,1,h,w) expected in the picture's places: 0 below
        `share` of them, and from there on from 0.5 up to 1, for all of them.

        A place counts by its neighbourhood's mean gain: not below half the limit, in full from one and a half of it on.

        Choice: for the whole picture. Mixed place by place, the first restorer's noise stays beside smooth ground, and
        since few degraded pictures have places that don't gain, little time is saved (docs/lab/second-restorer.md).
        """
        counted = (self.neighbourhood(gain) / np.float32(self.limit) - np.float32(0.5)).clip(0, 1)
        share = float(counted.mean())
        return 0.5 + 0.5 * (share - self.share) / (1 - self.share) if share >= self.share else 0.0

    def neighbourhood(self, gain: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean of the latents up to `reach` away, the border repeated."""
        side = 2 * self.reach + 1
        padded = np.pad(gain, ((0, 0), (0, 0), (self.reach, self.reach), (self.reach, self.reach)), mode="edge")
        for axis in (-2, -1):
            padded = np.lib.stride_tricks.sliding_window_view(padded, side, axis).mean(axis=-1)
        return padded


def fused_share(denoise: float) -> tuple[float, float]:
    """What `denoise` in [0,1] means: the fused answer's share of the picture in [0,1], and the `lean` within it.

    Up to 0.5 the share rises from nothing to all, with the weights of both restorers as trained; above it, the second
    one counts for more.
    """
    return min(2 * denoise, 1.0), LEAN * max(2 * denoise - 1, 0.0)
