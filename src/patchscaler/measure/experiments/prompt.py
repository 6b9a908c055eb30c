"""Table 4: no prompt, the texture prompt, and one prompt for the whole picture; K and the memory's size swept.

With `--set model=DIR1,DIR2` also models that were trained with another prompt, as the paper's were: captions, or none.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchscaler.errors import ConfigError
from patchscaler.measure.experiments.ablation import parse_sets, sweep
from patchscaler.measure.experiments.plots import gains, new_axes
from patchscaler.measure.experiments.record import Record, Verdict
from patchscaler.measure.experiments.trial import Found, Trial, steps_text
from patchscaler.measure.models import DEFAULT, PAPER, Enlarged, Way, with_parts
from patchscaler.measure.pairing import read_pixels
from patchscaler.models.loading import arguments_of
from patchscaler.models.texture import TextureClassifier

TOP_KS = (1, 2, 4, 8)
SIZES = (250, 500, 1000, 2000)
NONE, TEXTURE, GLOBAL = "no prompt", "texture prompt", "one prompt for the picture"
END = f", steps {steps_text(DEFAULT)}"


class PictureQuery(TextureClassifier):
    """A classifier that answers for every patch with the vector of the whole picture: what a text prompt knows."""

    picture: Tensor | None = None

    def forward(self, patches: Tensor) -> Tensor:
        if self.picture is None:
            return super().forward(patches)
        return self.picture.expand(len(patches), -1)


def run(trial: Trial) -> Record:
    if trial.model.texture_memory is None:
        raise ConfigError("prompt holds the texture prompt against others: --model names one that has it")
    others = {name: trial.load(name) for name in parse_sets(list(trial.setting.sets)).get("model", ())}
    kinds = {f"trained with prompt {_prompt(model)}: {Path(name).name}": model for name, model in others.items()}

    def prompts(steps: tuple[int, ...], end: str = "") -> dict[str, Way]:
        return {
            NONE + end: trial.way(steps=steps, use_texture=False),
            TEXTURE + end: trial.way(steps=steps),
            GLOBAL + end: _global_way(trial, steps),
            **{name + end: trial.way(model, steps=steps) for name, model in kinds.items()},
        }

    ways, few, model = prompts(PAPER.steps), prompts(DEFAULT, END), trial.model
    own_k, own_size = int(model.texture_encoder.config["top_k"]), len(model.texture_memory.texture_keys)
    top_ks = tuple(str(k) for k in TOP_KS if k <= own_size and k != own_k)
    sizes = tuple(str(n) for n in SIZES if own_k <= n < own_size)
    swept = sweep(trial, "K", top_ks, steps=PAPER.steps) | sweep(trial, "memory", sizes, steps=PAPER.steps)
    found = trial.compare(ways | few | swept)
    own = f"K = {own_k}, memory = {own_size} (the model's)"
    record = trial.record(
        "prompt",
        {
            "steps": list(PAPER.steps),
            "K": list(TOP_KS),
            "sizes": list(SIZES),
            "models": list(kinds),
        },
        [
            trial.summary(f"Prompts, steps {steps_text(PAPER.steps)}", {name: found[name] for name in ways}),
            trial.summary(f"Prompts, steps {steps_text(DEFAULT)}", {name: found[name] for name in few}),
            trial.summary(
                "K and the memory's size; the networks were trained with the first",
                {own: found[TEXTURE], **{name: found[name] for name in swept}},
            ),
        ],
    )
    trained = {_prompt(model): name for name, model in kinds.items()}
    record.verdicts = {
        "texture-none": _verdict(trial, found, trained.get("none", NONE)),
        "texture-global": _verdict(trial, found, GLOBAL),
        "text": Verdict(None, "no model trained with captions was named", "nothing"),
    }
    if "text" in trained:
        record.verdicts["text"] = _verdict(trial, found, trained["text"])
    record.plot, axes = new_axes()
    gained = {name: trial.gain(found[name], found[NONE]) for name in (TEXTURE, GLOBAL, *kinds, *swept)}
    gains(axes, gained, f"gain in {trial.judge.name} over no prompt; steps {steps_text(PAPER.steps)}")
    return record


def _prompt(model: Any) -> str:
    return str(model.patch_dit.config["prompt"])


def _global_way(trial: Trial, steps: tuple[int, ...]) -> Way:
    model = trial.model
    query = PictureQuery(**arguments_of(model.texture_classifier.config))
    query.load_state_dict(model.texture_classifier.state_dict())
    enlarge = trial.way(with_parts(model, texture_classifier=query), steps=steps)

    def way(path: Path) -> Enlarged:
        with torch.no_grad():
            coarse = model.restore(read_pixels(path).to(model.device)).latents
            query.picture = model.texture_classifier(coarse)
        return enlarge(path)

    return way


def _verdict(trial: Trial, found: Found, other: str) -> Verdict:
    few = trial.figures(found[TEXTURE + END], found[other + END])
    return Verdict(
        trial.gain(found[TEXTURE], found[other]).rises,
        f"{trial.figures(found[TEXTURE], found[other])}; with the default's steps {steps_text(DEFAULT)}: {few}",
        f"{TEXTURE} against {other}, steps {steps_text(PAPER.steps)}, {trial.count} pictures",
    )
