"""Levers of training, each tried for the same time: python scripts/ablate.py configs/ablations.toml -o runs/ablations

Each experiment of the file is a part of the model, its settings file, and variants of it. A variant is timed for a few
steps, trained for as many as fit into the experiment's minutes (the learning rate falls over the last 40 %), and judged
on validation pictures under three conditions. A variant may have minutes of its own, and begin from one before it. What
is finished is not done again. The table is printed and kept.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from patchscaler.cli.train import Part, types_of
from patchscaler.data.pairs import CONDITIONS, validation_pairs
from patchscaler.diffusion.pgs import GroupConfig
from patchscaler.features.lpips import load_lpips
from patchscaler.imaging.fidelity import psnr_y
from patchscaler.models.latents import decode_latents, encode_pixels
from patchscaler.training.loop import train
from patchscaler.training.settings import build, read_toml

TIMED = 4  # steps


def merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`table` with `changes` in it, nested ones too."""
    result = dict(table)
    for key, value in changes.items():
        result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


def seconds_per_step(task: Any, batch_size: int) -> float:
    """Of forward and backward alone, after one unmeasured step."""
    batches = list(torch.utils.data.DataLoader(task.dataset(), batch_size, sampler=range(batch_size * (TIMED + 1))))
    started = 0.0
    for number, batch in enumerate(batches):
        loss, _ = task.loss(task.network, batch, torch.Generator().manual_seed(number))
        loss.backward()
        started = started or time.monotonic()
    task.network.zero_grad(set_to_none=True)
    return (time.monotonic() - started) / TIMED


def trained(part: Part, table: dict[str, Any], minutes: float) -> tuple[Any, int]:
    """The task with its trained network, and how many steps that were."""
    settings_type, task_type = types_of(part)
    settings = build(settings_type, table)
    task = task_type(settings)
    steps = max(10, int(60 * minutes / seconds_per_step(task, settings.run.batch_size)))
    run = {"steps": steps, "decay_steps": int(0.4 * steps), "validate_every": 10 * steps}
    settings = build(settings_type, merged(table, {"run": run}))
    train(task, settings.run, settings)
    return task, steps


def results(part: Part, task: Any, pair: dict[str, torch.Tensor], steps: list[list[int]]) -> Iterator[tuple[str, Any]]:
    """Names and pictures to be judged for one degraded picture."""
    if part is Part.autoencoder:
        yield "decoded", decode_latents(task.network, encode_pixels(task.network, pair["hr"]))
    elif part is Part.restorer:
        restored = task.network(pair["lr"].contiguous(memory_format=torch.channels_last))
        yield "restored", decode_latents(task.autoencoder, restored.latents)
    else:
        restored = task.sampler.restore(pair["lr"])
        yield "restorer alone", decode_latents(task.autoencoder, restored.latents)
        for each in steps:
            refined = task.sampler.refine(restored, GroupConfig(steps=tuple(each)), seed=0)
            yield f"steps {','.join(map(str, each))}", decode_latents(task.autoencoder, refined)


@torch.no_grad()
def judged(part: Part, task: Any, experiment: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """{what: {condition: [LPIPS alex, PSNR-Y]}}, means over the pictures."""
    alex, count = load_lpips("alex"), int(experiment.get("pictures", 8))
    task.network.eval()
    sums: dict[str, dict[str, list[float]]] = {}
    for condition in CONDITIONS:
        pairs = validation_pairs(experiment["validation"], 4 * count, condition, side=256)[::4]
        for pair in pairs:
            for what, picture in results(part, task, pair, experiment.get("sampled", [[8, 14, 20], [2, 3, 4]])):
                picture = picture.float().clamp(0, 1)
                figures = float(alex.distance(alex(picture), alex(pair["hr"]))), float(psnr_y(picture, pair["hr"]))
                entry = sums.setdefault(what, {}).setdefault(condition, [0.0, 0.0])
                entry[:] = [old + new / len(pairs) for old, new in zip(entry, figures, strict=True)]
    return sums


def table_of(name: str, found: dict[str, Any]) -> str:
    head = ["variant", "steps", "judged", *CONDITIONS]
    lines = [f"### {name}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for variant, entry in found.items():
        for what, figures in entry["figures"].items():
            cells = [f"{lpips:.4f} / {psnr:.2f}" for lpips, psnr in figures.values()]
            lines.append(f"| {variant} | {entry['steps']} | {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for runs, results.json and tables.md")
    parser.add_argument("--only", nargs="*", help="names of experiments")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = arguments.out / "results.json"
    everything: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    for name, experiment in read_toml(arguments.file).items():
        if arguments.only and name not in arguments.only:
            continue
        part, done = Part(experiment["part"]), everything.setdefault(name, {})
        own = {k: v for k, v in read_toml(experiment["settings"]).items() if k not in experiment.get("leave_out", [])}
        base = merged(own, experiment.get("common", {}))
        for variant, changes in experiment["variants"].items():
            if variant in done:
                continue
            folder = {"run": {"folder": str(arguments.out / name / variant)}}
            changes = dict(changes)
            minutes = float(changes.pop("minutes", experiment["minutes"]))
            task, steps = trained(part, merged(merged(base, changes), folder), minutes)
            experiment.setdefault("validation", base["validation"])
            done[variant] = {"steps": steps, "figures": judged(part, task, experiment)}
            record.write_text(json.dumps(everything, indent=1))
            print(table_of(name, {variant: done[variant]}), flush=True)
    tables = "\n\n".join(table_of(name, found) for name, found in everything.items())
    (arguments.out / "tables.md").write_text(tables + "\n")
    print(tables)


if __name__ == "__main__":
    main()
