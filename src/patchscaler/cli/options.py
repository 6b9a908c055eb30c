"""Options that several commands have, and those of `Options` from their texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchscaler.errors import ConfigError

if TYPE_CHECKING:
    from patchscaler.options import Options

DTYPES = ("auto", "float32", "bfloat16", "float16")

Scale = Annotated[float | None, typer.Option(help="of each side, 1 (restore only) to 8, fractions too; default 4")]
MaxSide = Annotated[int | None, typer.Option(min=1, help="the longer side in pixels, instead of --scale")]
Quality = Annotated[str | None, typer.Option(metavar="NAME", help="fast, balanced or best (default: balanced)")]
Steps = Annotated[str | None, typer.Option(metavar="N,N,N", help="sampling steps of simple, medium and hard patches")]
Denoise = Annotated[
    float | None, typer.Option(min=0, max=1, help="how much the second restorer counts (default: the gate decides)")
]
Wrap = Annotated[bool, typer.Option("--wrap", help="for textures that tile: borders continue on the opposite side")]
Seed = Annotated[int, typer.Option(min=0, help="same seed, same result")]
Model = Annotated[str, typer.Option(metavar="NAME_OR_DIR", help="bundled name, folder or hub id")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[str, typer.Option(help=", ".join(DTYPES))]
Threads = Annotated[int, typer.Option(min=0, help="0: torch's choice")]
BatchSize = Annotated[int, typer.Option(min=1, help="patches at a time: memory, not the result")]
FileQuality = Annotated[int, typer.Option(min=1, max=100, help="of JPEG and WebP files")]
Metadata = Annotated[
    bool, typer.Option("--metadata/--no-metadata", help="keep EXIF, XMP, IPTC and note what was done, or none of it")
]
Features = Annotated[Path | None, typer.Option(metavar="DIR", help="folder of the convolutions of AlexNet and VGG16")]


def parse_options(
    quality: str | None = None,
    steps: str | None = None,
    budget: float | None = None,
    gammas: str | None = None,
    taus: str | None = None,
    **others: Any,
) -> "Options":
    """The options asked for, lists of numbers as text; raises ConfigError, which names the option."""
    from patchscaler.options import GAMMAS, TAUS, Options

    thresholds = _numbers("--gammas", gammas, float, "0.95,0.75") if gammas else GAMMAS
    starts = _numbers("--taus", taus, int, "400,700,1000") if taus else TAUS
    numbers = _numbers("--steps", steps, int, "8,14,20") if steps else None
    given = {"--quality": quality, "--steps": steps, "--budget": budget, "--gammas": gammas, "--taus": taus}
    try:
        return Options(quality=quality, steps=numbers, budget=budget, gammas=thresholds, taus=starts, **others)
    except ConfigError as error:
        named = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
        raise ConfigError(f"{named}: {error}" if named else str(error)) from None


def parse_steps(text: str) -> tuple[int, ...]:
    """The steps of simple, medium and hard patches from "8,14,20"; raises ConfigError."""
    return parse_options(steps=text).groups.steps


def _numbers(option: str, text: str, kind: type, example: str) -> tuple[Any, ...]:
    """As many numbers as the example has; raises ConfigError."""
    wanted = example.count(",") + 1
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != wanted:
        what = f"{('two', 'three')[wanted - 2]} {'whole ' if kind is int else ''}numbers"
        raise ConfigError(f"{option} {text}: give {what} with commas, such as {example}")
    return numbers
