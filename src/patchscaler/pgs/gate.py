"""Whether the second restorer is asked: PGS's own idea, spending where it pays, one stage earlier."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAN = 2.0  # logits of the second restorer's weight at either end of `denoise`


@dataclass(frozen=True)
class Gate:
    """limit  on the expected gain in LPIPS, from which on a place wants the second restorer
    reach  latents around a place whose mean gain decides
    share  of the places expected to gain, from which on it is asked, for the whole picture
    """

    limit: float
    reach: int
    share: float

    def decide(self, gain: NDArray[np.float32], denoise: float = 0.5) -> tuple[float, float]:
        """The fused answer's share of a picture in [0,1], and the `lean` for it, by the gain (1,1,h,w) expected in its
        places.

        denoise  0.5: the gate decides: 1 or 0. A place counts by its neighbourhood's mean gain: not below half the
                 limit, in full from one and a half of it on; from a mean of `share` on, both restorers are asked for
                 all of the picture. Below and above 0.5: less and more of their answer, down to nothing (0) and up to
                 everything (1), in which the second restorer counts for less and for more

        Choice: for the whole picture. Mixed place by place, the first restorer's noise stays beside smooth ground, and
        since few degraded pictures have places that don't gain, little time is saved (docs/lab/second-restorer.md).
        """
        shift = 2 * denoise - 1
        counted = (self.neighbourhood(gain) / np.float32(self.limit) - np.float32(0.5)).clip(0, 1)
        asked = float(counted.mean() >= self.share)
        return min(max(asked + shift, 0.0), 1.0), LEAN * shift

    def neighbourhood(self, gain: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean of the latents up to `reach` away, the border repeated."""
        side = 2 * self.reach + 1
        padded = np.pad(gain, ((0, 0), (0, 0), (self.reach, self.reach), (self.reach, self.reach)), mode="edge")
        for axis in (-2, -1):
            padded = np.lib.stride_tricks.sliding_window_view(padded, side, axis).mean(axis=-1)
        return padded
