"""The command line: `patchscaler COMMAND`."""

import io
import re
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import patchscaler.cli.upscale as upscaling
from patchscaler import __version__
from patchscaler.cli.batch import batch
from patchscaler.cli.benchmark import benchmark
from patchscaler.cli.data import data_app
from patchscaler.cli.evaluate import evaluate
from patchscaler.cli.experiment import experiment
from patchscaler.cli.export import export_app
from patchscaler.cli.info import info
from patchscaler.cli.model import assemble, calibrate, memory_app
from patchscaler.cli.serve import serve
from patchscaler.cli.streams import talk_on
from patchscaler.cli.train import train
from patchscaler.cli.upscale import upscale
from patchscaler.errors import ConfigError, PatchScalerError

PROMPT = "--prompt"  # the one option that may be empty
# What brings a package.
EXTRAS = {**dict.fromkeys(("torch", "einops", "jaxtyping", "jinja2"), "torch"), "diffusers": "diffusers"}

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
commands: list[Callable[..., None]] = [upscale, info, evaluate, batch, benchmark, experiment, serve, train]
commands += [calibrate, assemble]
for command in commands:
    app.command()(command)
for name, group in (("memory", memory_app), ("data", data_app), ("export", export_app)):
    app.add_typer(group, name=name)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"patchscaler {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def patchscaler(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and leave")
    ] = False,
) -> None:
    """Enlarge photos x4, patch by patch, with the steps spent where the picture is hard."""


def run() -> None:
    """`main` in a process of its own, as the installed command: see `upscale.alone`."""
    upscaling.alone = True
    main()


def main() -> None:
    """Run the command of sys.argv. Exit codes: 0 all done, 1 something failed, 2 a wrong call, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be text
    talk_on()
    try:
        _check_arguments(sys.argv[1:])
        app()
    except ConfigError as error:
        _fail(str(error), 2)
    except (PatchScalerError, OSError) as error:
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        _fail(f'this command needs {package}: pip install "patchscaler[{EXTRAS[package]}]"', 2)
    except MemoryError:
        _fail("not enough memory; close other programs or use a smaller picture or batch", 1)


def _check_arguments(arguments: list[str]) -> None:
    """Raises ConfigError for an empty name, which would mean the current folder. A prompt may be empty."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        empty = not argument and before != PROMPT
        if empty or (re.fullmatch("-+[a-z-]+=", argument) and argument != f"{PROMPT}="):
            raise ConfigError("an argument is empty; an unset variable in the command? Give a name or leave it out")


def _fail(reason: str, code: int) -> None:
    typer.echo(f"patchscaler: {reason}", err=True)
    sys.exit(code)
