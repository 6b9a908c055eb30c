"""Table 4: no prompt, the texture prompt, and one prompt for the whole picture; K and the memory's size swept."""

from typing import Any

import torch
from torch import Tensor

from patchscaler.integrations.diffusers.output import PatchScalerOutput
from patchscaler.integrations.diffusers.pipeline import PatchScalerPipeline
from patchscaler.measure.experiments.inputs import Sample, read_samples
from patchscaler.measure.experiments.measuring import (
    JUDGE,
    Measured,
    Notify,
    Way,
    compare_ways,
    difference,
    judges,
    load_model,
    summary,
    way_of,
)
from patchscaler.measure.experiments.record import Record, Verdict
from patchscaler.measure.experiments.setting import Setting
from patchscaler.models.texture import ReferenceTextureMemory, TextureClassifier, TextureEncoder
from patchscaler.options import DEFAULT_QUALITY, PAPER_STEPS, QUALITIES

TOP_KS = (1, 2, 4, 8)
SIZES = (250, 500, 1000, 2000)
STEPS = PAPER_STEPS  # by which the claims are judged
DEFAULT = QUALITIES[DEFAULT_QUALITY]
NONE, TEXTURE, GLOBAL = "no prompt", "texture prompt", "one prompt for the picture"


class PictureQuery(TextureClassifier):
    """A classifier that answers for every patch with the vector of the whole picture: what a text prompt knows."""

    picture: Tensor | None = None

    def forward(self, patches: Tensor) -> Tensor:
        if self.picture is None:
            return super().forward(patches)
        return self.picture.expand(len(patches), -1)


def run(setting: Setting, notify: Notify = lambda line: None) -> Record:
    samples, metrics, pipeline = read_samples(setting), judges(setting), load_model(setting)

    def way(pipe: PatchScalerPipeline) -> Way:
        return way_of(pipe, setting, steps=STEPS)

    def prompts(steps: tuple[int, ...], end: str = "") -> dict[str, Way]:
        return {
            NONE + end: way_of(pipeline, setting, steps=steps, use_texture=False),
            TEXTURE + end: way_of(pipeline, setting, steps=steps),
            GLOBAL + end: _global_way(pipeline, setting, steps),
        }

    ways, end = prompts(STEPS), f", steps {_text(DEFAULT)}"
    few = prompts(DEFAULT, end)
    own_k, own_size = int(pipeline.texture_encoder.config["top_k"]), len(pipeline.texture_memory.texture_keys)
    top_ks = {f"K = {k}": way(with_top_k(pipeline, k)) for k in TOP_KS if k <= own_size and k != own_k}
    sizes = {f"{n:,} textures": way(with_memory_of(pipeline, n)) for n in SIZES if own_k <= n < own_size}
    found = compare_ways(samples, ways | few | top_ks | sizes, metrics, notify)
    swept = {
        f"K = {own_k}, {own_size:,} textures (the model's)": found[TEXTURE],
        **{name: found[name] for name in (*top_ks, *sizes)},
    }
    record = Record(
        "prompt",
        setting,
        {"steps": list(STEPS), "K": list(TOP_KS), "sizes": list(SIZES)},
        [f"{sample.name} ({sample.condition})" for sample in samples],
        [
            summary(f"Prompts, steps {_text(STEPS)}", {name: found[name] for name in ways}, metrics),
            summary(f"Prompts, steps {_text(DEFAULT)}", {name: found[name] for name in few}, metrics),
            summary("K and the memory's size; the networks were trained with the first", swept, metrics),
        ],
    )
    record.verdicts = {
        "texture-none": _verdict(found, NONE, end, len(samples)),
        "texture-global": _verdict(found, GLOBAL, end, len(samples)),
    }
    record.plot = _plot(found)
    return record


def with_parts(pipeline: PatchScalerPipeline, **parts: torch.nn.Module) -> PatchScalerPipeline:
    """A pipeline that shares all other parts."""
    changed = {
        name: torch.nn.Module.to(part, pipeline.device, pipeline.dtype).eval()  # diffusers' own `to` warns for nothing
        for name, part in parts.items()
    }
    return PatchScalerPipeline(**(dict(pipeline.components) | changed), overlap=int(pipeline.config["overlap"]))


def with_top_k(pipeline: PatchScalerPipeline, top_k: int) -> PatchScalerPipeline:
    """Retrieves another number of textures; the encoder's weights don't depend on it."""
    encoder = TextureEncoder(**(_config(pipeline.texture_encoder) | {"top_k": top_k}))
    encoder.load_state_dict(pipeline.texture_encoder.state_dict())
    return with_parts(pipeline, texture_encoder=encoder)


def with_memory_of(pipeline: PatchScalerPipeline, size: int) -> PatchScalerPipeline:
    """The memory's first textures: farthest-point sampling put them in, so any beginning is such a sample itself."""
    memory = ReferenceTextureMemory(**(_config(pipeline.texture_memory) | {"size": size}))
    state = dict(pipeline.texture_memory.state_dict())
    for name in ("texture_values", "texture_keys"):
        state[name] = state[name][:size]
    memory.load_state_dict(state)
    return with_parts(pipeline, texture_memory=memory)


def _global_way(pipeline: PatchScalerPipeline, setting: Setting, steps: tuple[int, ...]) -> Way:
    query = PictureQuery(**_config(pipeline.texture_classifier))
    query.load_state_dict(pipeline.texture_classifier.state_dict())
    enlarge = way_of(with_parts(pipeline, texture_classifier=query), setting, steps=steps)

    def way(sample: Sample) -> PatchScalerOutput:
        with torch.no_grad():
            coarse = pipeline.restore(sample.lr.to(pipeline.device)).latents
            query.picture = pipeline.texture_classifier(coarse)
        return enlarge(sample)

    return way


def _config(part: Any) -> dict[str, Any]:
    return {key: value for key, value in part.config.items() if not key.startswith("_")}


def _text(steps: tuple[int, ...]) -> str:
    return ",".join(map(str, steps))


def _verdict(found: dict[str, Measured], other: str, end: str, count: int) -> Verdict:
    texture, rival = found[TEXTURE], found[other]
    gain = difference(rival.values[JUDGE], texture.values[JUDGE])
    few = difference(found[other + end].values[JUDGE], found[TEXTURE + end].values[JUDGE])
    return Verdict(
        gain.rises,
        f"LPIPS {texture.mean(JUDGE):.4f} against {rival.mean(JUDGE):.4f} (gain {gain}); gain with steps "
        f"{_text(DEFAULT)}: {few}",
        f"{TEXTURE} against {other}, steps {_text(STEPS)}, {count} pictures",
    )


def _plot(found: dict[str, Measured]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    names = [name for name in found if name != NONE and not name.endswith(_text(DEFAULT))]
    gains = [difference(found[NONE].values[JUDGE], found[name].values[JUDGE]) for name in names]
    axes.barh(names, [gain.mean for gain in gains], xerr=[gain.error for gain in gains], color="C0")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f"gain in LPIPS (alex) over no prompt, with its standard error; steps {_text(STEPS)}")
    return figure
