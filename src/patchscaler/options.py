"""What a call can ask for: one dataclass, checked once, with the same names in Python, on the command line, in jobs of
the web server and of the cluster."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypedDict

from patchscaler.errors import ConfigError
from patchscaler.pgs.groups import GroupConfig, plan

if TYPE_CHECKING:
    from typing_extensions import Unpack

Quality = Literal["fast", "balanced", "best"]  # the keys of QUALITIES
# Steps of simple, medium and hard patches. The only place with these numbers; docs/speed.md says what each costs.
QUALITIES: dict[str, tuple[int, int, int]] = {
    "fast": (0, 0, 1),  # simple and medium patches stay as the restoration module made them
    "balanced": (0, 3, 4),  # few steps do simple patches no good: docs/lab/steps.md
    "best": (0, 4, 8),
}
DEFAULT_QUALITY = "balanced"
PAPER_STEPS = GroupConfig.steps  # what the claims of the paper are tried with; the bundled weights are made for fewer
# What a budget chooses from, rising. It ends at "best": more time than that makes no better pictures.
LADDER: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 3, 5), (0, 4, 6), (0, 4, 8),
)  # fmt: skip
GAMMAS, TAUS = GroupConfig.gammas, GroupConfig.taus


class OptionNames(TypedDict, total=False):
    """The fields of `Options`, for type checkers, where a call takes them by name."""

    seed: int
    quality: Quality | None
    steps: Sequence[int] | None
    budget: float | None
    denoise: float | None
    gammas: Sequence[float]
    taus: Sequence[int]
    batch_size: int
    use_texture: bool
    wrap: bool


@dataclass(frozen=True)
class Options:
    """The options of one call.

    seed         of the noise field, in [0, 2**63)
    quality      "fast", "balanced" (the default) or "best": preset of `steps`
    steps, taus  of the groups simple, medium, hard (Eq. 7); gammas: confidence thresholds between them (Eq. 2)
    budget       seconds from the start in which the picture shall be finished: takes as many steps as fit
    denoise      0 to 1: how much the second restorer counts and how smooth noise may become. 0: it isn't asked, which
                 saves most of the time that degraded pictures take. None: chosen for each picture by the gate, 0 where
                 it doesn't pay, else 0.5 to 1; "fast" doesn't ask it
    batch_size   patches per network call; does not change the result beyond rounding
    use_texture  False: no prompt
    wrap         for textures that tile: each border continues on the opposite side

    At most one of quality, steps and budget. Raises ConfigError for that, for what GroupConfig refuses, a batch size
    below 1 and a budget that is not above 0.
    """

    seed: int = 0
    quality: str | None = None
    steps: Sequence[int] | None = None
    budget: float | None = None
    denoise: float | None = None
    gammas: Sequence[float] = GAMMAS
    taus: Sequence[int] = TAUS
    batch_size: int = 32
    use_texture: bool = True
    wrap: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("quality", "steps", "budget") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} both choose the steps: give one of them")
        if self.quality is not None and self.quality not in QUALITIES:
            raise ConfigError(f'quality "{self.quality}": choose {", ".join(QUALITIES)}')
        try:  # numpy's whole numbers are as good; 3.7 is none
            object.__setattr__(self, "seed", operator.index(self.seed))
            if self.steps is not None:
                object.__setattr__(self, "steps", tuple(operator.index(count) for count in self.steps))
        except TypeError:
            raise ConfigError(f"steps {self.steps} and seed {self.seed} must be whole numbers") from None
        object.__setattr__(self, "gammas", tuple(self.gammas))
        object.__setattr__(self, "taus", tuple(self.taus))
        plan(self.groups)  # for its checks, also where no patch turns out to need a step
        if self.batch_size < 1:
            raise ConfigError(f"batch_size {self.batch_size} must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed {self.seed} must lie in [0, 2**63)")
        if not 0 <= (self.denoise or 0) <= 1:
            raise ConfigError(f"denoise {self.denoise} must lie in [0, 1]")
        if self.budget is not None and not self.budget > 0:
            raise ConfigError(f"budget {self.budget} must be above 0 seconds")

    @property
    def groups(self) -> GroupConfig:
        """Thresholds, start times and steps. A preset's steps never exceed `taus`, since times are whole numbers."""
        steps = self.steps
        if steps is None:
            preset = QUALITIES[self.quality or DEFAULT_QUALITY]
            steps = tuple(min(count, tau) for count, tau in zip(preset, self.taus, strict=False))
        return GroupConfig(gammas=tuple(self.gammas), taus=tuple(self.taus), steps=tuple(steps))

    @property
    def denoise_level(self) -> float | None:
        """`denoise`, None where the gate decides."""
        if self.denoise is None:
            return 0.0 if self.quality == "fast" else None
        return float(self.denoise)

    def updated(self, **named: "Unpack[OptionNames]") -> "Options":
        """The same with these fields instead."""
        return replace(self, **named)

    def with_steps(self, steps: Sequence[int]) -> "Options":
        """The same, but for what chooses the steps."""
        return replace(self, steps=steps, quality=None, budget=None, denoise=self.denoise_level)

    def restoring(self) -> "Options":
        """Without a step: the picture as the restorer makes it."""
        return self.with_steps((0,) * len(self.taus))
