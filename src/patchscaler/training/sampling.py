"""Networks in training, as they restore and refine pictures at inference: for the validation of training runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from patchscaler.engines.torch import TorchEngine
from patchscaler.imaging.picture import Picture
from patchscaler.imaging.tiles import OVERLAP
from patchscaler.models.latents import decode_latents
from patchscaler.models.model import Model
from patchscaler.options import Options
from patchscaler.pgs.groups import GroupConfig
from patchscaler.pgs.schedule import alphas_from, make_scheduler
from patchscaler.report import Report
from patchscaler.stages.canvas import LatentCanvas
from patchscaler.stages.task import Task
from patchscaler.training.validation import ConditionedPair, mean_figures
from patchscaler.upscaler import Upscaler


def model_of(**networks: Any) -> Model:
    """The networks of a Model, by name; they may be in training."""
    return Model(**networks, alphas=alphas_from(make_scheduler().config), overlap=OVERLAP)


@torch.no_grad()
def compare(
    model: Model, pairs: Sequence[ConditionedPair], config: GroupConfig, measures: Mapping[str, Callable[..., Any]]
) -> tuple[dict[str, float], list[list[Tensor]]]:
    """Means of FIGURE_coarse and FIGURE_sampled (seed: the pair's number), see `mean_figures`; and each pair's
    pictures coarse, sampled and true."""
    upscaler = Upscaler(engine=TorchEngine(model))  # anew, as the networks may have learned
    device = model.device
    options = Options(steps=config.steps, gammas=config.gammas, taus=config.taus)
    found, rows = [], []
    for number, (condition, pair) in enumerate(pairs):
        report, picture = Report(str(device), "", number), Picture(pair["lr"].cpu().numpy())
        seeded = replace(options, seed=number)
        task = Task(picture=picture, options=seeded, report=report, canvas=LatentCanvas())
        patches = upscaler.group(upscaler.restore(task))
        upscaler.refine(patches)
        latents = {"coarse": patches.coarse.latents, "sampled": upscaler.render(patches)}
        pictures = {
            name: decode_latents(model.autoencoder, torch.from_numpy(part).to(device)).clamp(0, 1)
            for name, part in latents.items()
        }
        truth = pair["hr"].to(device)
        figures = {
            f"{figure}_{name}": float(measure(result, truth))
            for name, result in pictures.items()
            for figure, measure in measures.items()
        }
        found.append((condition, figures))
        rows.append([*pictures.values(), truth])
    return mean_figures(found), rows
