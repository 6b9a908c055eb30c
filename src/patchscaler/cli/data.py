"""`patchscaler data list`, `data check`, `data degrade`: test sets, recognised, checked and made."""

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(help="Test sets: list, check, degrade.", no_args_is_help=True)


@data_app.command("list")
def data_list() -> None:
    """The test sets that are recognised: their pictures, and where they are obtained."""
    from patchscaler.data.testsets import LAYOUTS

    for layout in LAYOUTS:
        parts = [f"{p.folder}: {p.pictures}" + (f" of {p.side}x{p.side}" if p.side else "") for p in layout.parts]
        typer.echo(f"{layout.name:<17} {layout.unpacked}/  ({'; '.join(parts)})\n{'':<17} {layout.obtained}")


@data_app.command("check")
def data_check(
    folder: Annotated[Path, typer.Argument(help="an unpacked test set")],
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="hashes, written at the first check (default: in the folder)")
    ] = None,
) -> None:
    """Say which test set a folder holds and whether it is whole; compare its hashes with those of the first check.

    Exit code 1 where something is wrong.
    """
    from patchscaler.data.testsets import MANIFEST, check_manifest, recognise

    found = recognise(folder)
    typer.echo(f"{folder}: {found.layout.name if found.layout else 'no test set that is known'}")
    for place, count in found.counts.items():
        typer.echo(f"  {place}: {count} pictures")
    problems = list(found.problems)
    path = manifest or folder / MANIFEST
    if found.counts:
        changes = check_manifest(folder, path)
        typer.echo(f"  hashes written to {path}" if changes is None else f"  hashes compared with {path}")
        problems += changes or []
    for problem in problems:
        typer.echo(f"patchscaler: {problem}", err=True)
    if problems or not found.counts:
        raise typer.Exit(1)


@data_app.command("degrade")
def data_degrade(
    pictures: Annotated[Path, typer.Argument(help="folder of sharp pictures")],
    out: Annotated[Path, typer.Option("-o", "--output", help="folder to write: hr/, lr/, degradation.json")],
    condition: Annotated[str, typer.Option(help="bicubic, camera, mild, real_esrgan or resshift")] = "real_esrgan",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    count: Annotated[int, typer.Option(min=0, help="so many pictures, chosen by the seed; 0: all")] = 0,
    side: Annotated[
        int | None, typer.Option(min=64, help="reduce the shorter side to it, cut the middle square [default: whole]")
    ] = None,
) -> None:
    """Make small pictures of sharp ones; the same call makes the same pictures."""
    from patchscaler.data.degrading import degrade_folder

    made = degrade_folder(pictures, out, condition, seed, count, side)
    typer.echo(f"{out}: {made} pictures, {condition}, seed {seed}")
