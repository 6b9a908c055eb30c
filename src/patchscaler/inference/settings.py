"""What a user can steer: how many steps each group of patches gets, and the rest of one call's settings."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from patchscaler.diffusion.pgs import GroupConfig, plan
from patchscaler.errors import ConfigError

OutputType = Literal["pil", "np", "pt", "latent"]
Quality = Literal["fast", "balanced", "best"]  # the keys of QUALITIES
# Steps of simple, medium and hard patches. The only place with these numbers; docs/speed.md says what each costs.
QUALITIES: dict[str, tuple[int, int, int]] = {
    "fast": (0, 0, 1),  # simple and medium patches stay as the restoration module made them
    "balanced": (0, 3, 4),  # few steps do simple patches no good: docs/lab/steps.md
    "best": (0, 4, 8),
}
DEFAULT_QUALITY = "balanced"
DENOISE = 0.5  # the gate decides
PAPER_STEPS = GroupConfig.steps  # what the claims of the paper are tried with; the bundled weights are made for fewer
# What a budget chooses from, rising. It ends at "best": more time than that makes no better pictures.
LADDER: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 3, 5), (0, 4, 6), (0, 4, 8),
)  # fmt: skip
GAMMAS, TAUS = GroupConfig.gammas, GroupConfig.taus


@dataclass(frozen=True)
class Settings:
    """One call's settings.

    steps, taus  of the groups simple, medium, hard (Eq. 7); gammas: confidence thresholds between them (Eq. 2)
    seed         of the noise field, in [0, 2**63)
    batch_size   patches per network call; does not change the result beyond rounding
    use_texture  False: no texture prompt
    denoise      in [0,1]: how much the second restorer counts and how smooth noise may become; 0: it isn't asked, 0.5:
                 the gate decides
    budget       seconds from the start in which the picture shall be finished; replaces `steps` by as many as fit

    Raises ConfigError for what GroupConfig refuses, a batch size below 1 and a budget that is not above 0.
    """

    steps: tuple[int, ...] = QUALITIES[DEFAULT_QUALITY]
    gammas: tuple[float, ...] = GAMMAS
    taus: tuple[int, ...] = TAUS
    seed: int = 0
    batch_size: int = 32
    use_texture: bool = True
    denoise: float = DENOISE
    budget: float | None = None

    def __post_init__(self) -> None:
        try:  # numpy's whole numbers are as good; 3.7 is none
            object.__setattr__(self, "steps", tuple(operator.index(count) for count in self.steps))
            object.__setattr__(self, "seed", operator.index(self.seed))
        except TypeError:
            raise ConfigError(f"steps {self.steps} and seed {self.seed} must be whole numbers") from None
        plan(self.groups)  # for its checks, also where no patch turns out to need a step
        if self.batch_size < 1:
            raise ConfigError(f"batch_size {self.batch_size} must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed {self.seed} must lie in [0, 2**63)")
        if not 0 <= self.denoise <= 1:
            raise ConfigError(f"denoise {self.denoise} must lie in [0, 1]")
        if self.budget is not None and not self.budget > 0:
            raise ConfigError(f"budget {self.budget} must be above 0 seconds")

    def with_steps(self, steps: tuple[int, ...]) -> "Settings":
        return replace(self, steps=steps)

    @property
    def groups(self) -> GroupConfig:
        return GroupConfig(gammas=self.gammas, taus=self.taus, steps=self.steps)


def choose_steps(
    quality: str | None, steps: Sequence[int] | None, budget: float | None, taus: Sequence[int] = TAUS
) -> tuple[int, ...]:
    """The steps that a call asks for, by one of three ways at most (ConfigError); a budget changes them later.

    A preset's steps never exceed `taus`, since times are whole numbers.
    """
    given = [n for n, v in (("quality", quality), ("steps", steps), ("budget", budget)) if v is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} both choose the steps: give one of them")
    if steps is not None:
        return tuple(steps)
    name = quality or DEFAULT_QUALITY
    if name not in QUALITIES:
        raise ConfigError(f'quality "{name}": choose {", ".join(QUALITIES)}')
    return tuple(min(count, tau) for count, tau in zip(QUALITIES[name], taus, strict=False))


def choose_denoise(quality: str | None, denoise: float | None) -> float:
    """What a call asks for; None: the gate decides, and "fast" never asks the second restorer."""
    if denoise is None:
        return 0.0 if quality == "fast" else DENOISE
    return float(denoise)
