"""`patchscaler experiment NAME`: one of the paper's tables or figures, rerun."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from patchscaler.cli import options as option
from patchscaler.cli.evaluate import PEER_HELP, peers_of
from patchscaler.cli.options import DTYPES
from patchscaler.engines.devices import choose_device
from patchscaler.errors import ConfigError
from patchscaler.measure.experiments.catalogue import ABLATION, CATALOGUE, PLUG_IN, PROMPT

ALL = "all"
SET_KEYS = "groups, gammas, taus, steps, seed, denoise, texture, overlap, K, memory, model; / in values of several"
NAMES = "; ".join(f"{name} ({entry.shows})" for name, entry in CATALOGUE.items())


def experiment(
    name: Annotated[str, typer.Argument(help=f"{ALL}, or {NAMES}")],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="sharp pictures, or a test set (see `patchscaler data list`)")
    ],
    model: option.Model = "tiny",
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="gets a folder for each")] = Path(
        "results"
    ),
    pictures: Annotated[
        int | None, typer.Option(min=0, help="spread over the folder; 0: all (default: a few minutes' worth)")
    ] = None,
    side: Annotated[
        int, typer.Option(min=0, help="of the middle that is taken of each picture, in pixels; 0: whole pictures")
    ] = 256,
    conditions: Annotated[
        str, typer.Option(help="that make sharp pictures small, in turns")
    ] = "bicubic,camera,mild,real_esrgan",
    peer: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DIR", help=f"quality: {PEER_HELP}; repeatable")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=V1,V2", help=f"ablation: values of {SET_KEYS}; prompt: model alone"),
    ] = None,
    no_reference: Annotated[
        bool, typer.Option("--no-reference", help="enlarge --data as they are, without a ground truth")
    ] = False,
    backbone: Annotated[
        str | None, typer.Option(metavar="ID_OR_DIR", help="plug-in: the diffusers pipeline that PGS goes over")
    ] = None,
    backbone_style: Annotated[
        str | None, typer.Option(metavar="STYLE", help="plug-in: img2img, stablesr, x4, ldm, as in upscale")
    ] = None,
    metrics: Annotated[str, typer.Option(help="as in evaluate; LPIPS (alex) is always measured")] = "default",
    features: option.Features = None,
    seed: option.Seed = 0,
    device: option.Device = "auto",
    dtype: option.Dtype = "auto",
    threads: option.Threads = 0,
    batch_size: option.BatchSize = 32,
) -> None:
    """Rerun one of the paper's tables or figures; writes JSON, a page and plots with all that they depend on."""
    from rich.console import Console

    from patchscaler.measure.experiments.run import run
    from patchscaler.measure.experiments.setting import Setting

    _check(name, peer, backbone, backbone_style, sets)
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: choose {', '.join(DTYPES)}")
    setting = Setting(
        data=data,
        model=model,
        side=side,
        conditions=tuple(filter(None, (part.strip() for part in conditions.split(",")))),
        metrics=metrics,
        features=features,
        seed=seed,
        device=choose_device(device),
        dtype=dtype,
        threads=threads,
        batch_size=batch_size,
        peers=peers_of(peer or []),
        sets=tuple(sets or ()),
        no_reference=no_reference,
        backbone=backbone,
        backbone_style=backbone_style,
    )
    lines = Console(stderr=True, highlight=False, markup=False)
    for chosen in CATALOGUE if name == ALL else [name]:
        needed = {PLUG_IN: (backbone, "no other pipeline is named (--backbone ID_OR_DIR)")}
        needed[ABLATION] = ("".join(sets or []) or None, "nothing to vary is named (--set KEY=V1,V2)")
        value, reason = needed.get(chosen, ("", ""))
        if name == ALL and value is None:
            lines.print(f"{chosen}: left out, since {reason}")
            continue
        own = setting if chosen == "quality" else dataclasses.replace(setting, peers=())
        own = own if chosen == PLUG_IN else dataclasses.replace(own, backbone=None, backbone_style=None)
        models = tuple(text for text in own.sets if text.startswith("model="))
        own = own if chosen == ABLATION else dataclasses.replace(own, sets=models if chosen == PROMPT else ())
        place = run(chosen, own, out, pictures, lambda line, chosen=chosen: lines.print(f"{chosen}: {line}"))
        typer.echo((place / "README.md").read_text(encoding="utf-8"))
        typer.echo(f"wrote {place}")


def _check(
    name: str, peer: list[str] | None, backbone: str | None, backbone_style: str | None, sets: list[str] | None
) -> None:
    """Raises ConfigError for an unknown experiment, and for options that aren't its."""
    if name not in (ALL, *CATALOGUE):
        raise ConfigError(f"experiment {name}: choose {ALL}, {', '.join(CATALOGUE)}")
    if peer and name not in (ALL, "quality"):
        raise ConfigError(f"--peer: only quality compares methods, not {name}")
    if backbone is not None and name not in (ALL, PLUG_IN):
        raise ConfigError(f"--backbone: only {PLUG_IN} runs another pipeline, not {name}")
    if sets and name not in (ALL, ABLATION, PROMPT):
        raise ConfigError(f"--set: only {ABLATION} varies options, and {PROMPT} models, not {name}")
    if name == PROMPT and any(not text.startswith("model=") for text in sets or []):
        raise ConfigError(f"--set: {PROMPT} compares models with other prompts: model=DIR1,DIR2 and no other key")
    if sets:
        from patchscaler.measure.experiments.ablation import parse_sets

        parse_sets(sets)
    if backbone is None and backbone_style is not None:
        raise ConfigError(f"--backbone-style {backbone_style}: is for a --backbone; name one")
