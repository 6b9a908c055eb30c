"""`patchscaler memory build`, `patchscaler calibrate`, `patchscaler assemble`: from trained parts to a model folder."""

import json
from pathlib import Path
from typing import Annotated

import typer

from patchscaler.errors import ConfigError

memory_app = typer.Typer(no_args_is_help=True)


@memory_app.callback()
def memory() -> None:
    """The Reference Texture Memory."""


@memory_app.command("build")
def memory_build(
    pictures: Annotated[Path, typer.Argument(help="folder of sharp pictures, or of uncompressed tar files of them")],
    out: Annotated[Path, typer.Option("-o", "--output", help="folder to write")],
    autoencoder: Annotated[Path, typer.Option(help="folder of the autoencoder")],
    classifier: Annotated[Path, typer.Option(help="folder of the texture classifier")],
    manifest: Annotated[Path | None, typer.Option(help="CSV with columns file and kind")] = None,
    size: Annotated[int, typer.Option(help="textures kept", min=1)] = 2000,
    candidates: Annotated[int, typer.Option(help="patches to choose from; 0 with --stride: all", min=0)] = 20_000,
    patch: Annotated[int, typer.Option(help="V: side of a patch in latents", min=1)] = 16,
    stride: Annotated[
        int | None, typer.Option(help="cut every picture on a grid, so many latents apart (default: at random)", min=1)
    ] = None,
    seed: int = 0,
) -> None:
    """Build a texture memory from your own pictures."""
    from rich.progress import Progress as Bar

    from patchscaler.data.pictures import PictureSet
    from patchscaler.data.reading import shards
    from patchscaler.training.memory import build_memory

    chosen = PictureSet(
        str(pictures),
        min_side=max(256, 8 * patch),
        manifest=None if manifest is None else str(manifest),
        other_weight=1.0,
        decode=stride is None and not shards(pictures),  # on a grid each picture is read once
    )
    with Bar() as bar:
        task = bar.add_task("reading patches", total=candidates or None)
        build_memory(
            chosen,
            str(autoencoder),
            str(classifier),
            str(out),
            size=size,
            candidates=candidates,
            seed=seed,
            patch=patch,
            stride=stride,
            on_candidate=lambda done: bar.update(task, completed=done),
        )


def calibrate(
    restorer: Annotated[Path, typer.Argument(help="folder of the restorer's weights; its config.json is changed")],
    pictures: Annotated[Path, typer.Option(help="folder of validation pictures")],
    conditions: Annotated[str, typer.Option(help="degradations, comma separated")] = "bicubic,camera,mild,real_esrgan",
    hard_share: Annotated[float, typer.Option(help="share of patches that shall be hard", min=0.01, max=0.99)] = 0.3333,
    second_restorer: Annotated[Path | None, typer.Option(help="with --fusion, for a model that has one")] = None,
    fusion: Annotated[Path | None, typer.Option()] = None,
    autoencoder: Annotated[Path | None, typer.Option(help="for a restorer that takes latents, as the paper's")] = None,
    patch: Annotated[int, typer.Option(help="V: side of a patch in latents", min=1)] = 16,
) -> None:
    """Set the difficulty scale eta so that the given share of patches is hard."""
    if (second_restorer is None) != (fusion is None):
        raise ConfigError("--second-restorer and --fusion go together: give both or none")
    second = None if second_restorer is None else (str(second_restorer), str(fusion))
    from patchscaler.training.calibrate import calibrate as run

    latents = None if autoencoder is None else str(autoencoder)
    eta, shares = run(restorer, str(pictures), conditions.split(","), hard_share, second, latents, patch)
    print(f"eta {eta}: " + ", ".join(f"{n} {s:.1%}" for n, s in zip(("simple", "medium", "hard"), shares, strict=True)))


def assemble(
    out: Annotated[Path, typer.Argument(help="model folder to write")],
    autoencoder: Annotated[Path, typer.Option()],
    restorer: Annotated[Path, typer.Option()],
    patch_dit: Annotated[Path, typer.Option()],
    texture_classifier: Annotated[Path | None, typer.Option(help="of a Patch-DiT prompted by textures")] = None,
    texture_encoder: Annotated[Path | None, typer.Option(help="likewise")] = None,
    texture_memory: Annotated[Path | None, typer.Option(help="likewise")] = None,
    second_restorer: Annotated[Path | None, typer.Option(help="with --fusion, for a model that has one")] = None,
    fusion: Annotated[Path | None, typer.Option()] = None,
    figures: Annotated[Path | None, typer.Option(help="JSON with validation figures for the record")] = None,
) -> None:
    """Put trained parts together into one model folder, in half precision, with a record."""
    from patchscaler.integrations.diffusers.assembly import assemble as run

    folders = {
        "autoencoder": autoencoder,
        "restorer": restorer,
        "patch_dit": patch_dit,
        "texture_classifier": texture_classifier,
        "texture_encoder": texture_encoder,
        "texture_memory": texture_memory,
        "second_restorer": second_restorer,
        "fusion": fusion,
    }
    given = {name: folder for name, folder in folders.items() if folder is not None}
    run(given, out, figures=None if figures is None else json.loads(figures.read_text()))
    print(f"wrote {out}")
