"""The command line: `patchscaler COMMAND`."""

import sys

import typer

from patchscaler.cli.train import train
from patchscaler.errors import PatchScalerError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(train)


@app.callback()
def patchscaler() -> None:
    """Enlarge photos x4, patch by patch, with the steps spent where the picture is hard."""


def main() -> None:
    try:
        app()
    except PatchScalerError as error:
        print(f"patchscaler: {error}", file=sys.stderr)
        sys.exit(1)
