"""`python -m patchscaler`: the command line."""

from patchscaler.cli.main import run

run()
