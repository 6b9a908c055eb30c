"""Adapters over diffusers' pipelines: with one tile and all steps they are the pipelines themselves.

With PGS they spend evaluations where the confidence is low, and each group is the pipeline from that group's start.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny_backbones
from patchscaler import Upscaler
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.imaging.geometry import Size
from patchscaler.integrations import ldm_upscale, sd_img2img, sd_upscale, stablesr
from patchscaler.integrations.frame import Coarse, Sampling, Upscaled
from patchscaler.integrations.hub import adapter_for, load_backbone
from patchscaler.pgs import GroupConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning:transformers.*", "ignore::DeprecationWarning", "ignore::UserWarning:transformers.*"
)

SIDE = 32  # of the small picture
STEPS = 5
EVERY = GroupConfig(gammas=(), taus=(1000,), steps=(STEPS,))
THREE = GroupConfig(gammas=(0.7, 0.4), taus=(400, 800, 1000), steps=(2, 4, 5))
CLOSE = {"atol": 5e-6, "rtol": 1e-5}


def coarse_of(height: int = SIDE, width: int = SIDE) -> Coarse:
    """Random pictures, and a confidence that falls from left to right."""
    generator = torch.Generator().manual_seed(height + width)
    low, pixels = (torch.rand(1, 3, f * height, f * width, generator=generator) for f in (1, 4))
    size = Size(-(-height // 2), -(-width // 2))
    return Coarse(low, pixels, torch.linspace(0.99, 0.05, size.width).expand(1, 1, *size).contiguous())


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def plain(groups: GroupConfig = EVERY, **options: Any) -> Sampling:
    """One generator for all noise, and nothing done to the colours: as the pipelines do it."""
    return Sampling(groups=groups, generator=draw(), colour_fix=False, **options)


@pytest.fixture(scope="module")
def sd() -> Any:
    return tiny_backbones.stable_diffusion(sample_size=SIDE // 2)


@pytest.fixture(scope="module")
def x4() -> Any:
    return tiny_backbones.sd_upscaler(sample_size=SIDE)


@pytest.fixture(scope="module")
def ldm() -> Any:
    return tiny_backbones.latent_diffusion(sample_size=SIDE)


# One tile, one group, all steps: the pipeline's own result


@pytest.mark.parametrize(("prompt", "guidance"), [("a parrot", 7.5), ("", 1.0)])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler", "EulerAncestralDiscreteScheduler"])
def test_img2img_is_the_pipelines_own(sd: Any, prompt: str, guidance: float, scheduler: str) -> None:
    pipe = _with_scheduler(sd, scheduler)
    coarse = coarse_of()
    ours = sd_img2img.upscale(pipe, coarse, plain(), prompt=prompt, guidance_scale=guidance)
    theirs = pipe(
        prompt,
        image=coarse.pixels,
        strength=1.0,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=draw(),
        output_type="pt",
    ).images
    torch.testing.assert_close(ours.pixels, theirs, **CLOSE)


def test_every_group_of_img2img_is_the_pipeline_with_its_strength(sd: Any) -> None:
    coarse = coarse_of()
    for confidence, tau, steps in zip((0.9, 0.5, 0.1), THREE.taus, THREE.steps, strict=True):
        alike = coarse._replace(confidence=torch.full_like(coarse.confidence, confidence))
        ours = sd_img2img.upscale(sd, alike, plain(THREE), prompt="a parrot")
        theirs = sd(
            "a parrot",
            image=coarse.pixels,
            strength=tau / 1000,
            num_inference_steps=steps * 1000 // tau,
            generator=draw(),
            output_type="pt",
        ).images
        torch.testing.assert_close(ours.pixels, theirs, **CLOSE)
        assert ours.evaluations.item() == steps


def test_guidance_as_an_input_of_the_network() -> None:
    pipe = tiny_backbones.stable_diffusion(sample_size=SIDE // 2, time_cond_proj_dim=8)
    coarse = coarse_of()
    ours = sd_img2img.upscale(pipe, coarse, plain(), prompt="a", guidance_scale=4.0)
    theirs = pipe(
        "a",
        image=coarse.pixels,
        strength=1.0,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        generator=draw(),
        output_type="pt",
    ).images
    torch.testing.assert_close(ours.pixels, theirs, **CLOSE)


def test_stablesr_is_stable_diffusion_from_y_tau() -> None:
    pipe = tiny_backbones.stable_diffusion(sample_size=SIDE // 2, image=False)
    coarse, generator = coarse_of(), draw()
    ours = stablesr.upscale(pipe, coarse, plain(patch=SIDE // 2))
    encoded = pipe.vae.config["scaling_factor"] * pipe.vae.encode(2 * coarse.pixels - 1).latent_dist.sample(generator)
    pipe.scheduler.set_timesteps(STEPS)
    noise = torch.randn(encoded.shape, generator=generator)
    start = pipe.scheduler.add_noise(encoded, noise, pipe.scheduler.timesteps[:1])
    theirs = pipe("", num_inference_steps=STEPS, guidance_scale=1.0, latents=start, output_type="pt").images
    torch.testing.assert_close(ours.pixels, theirs, **CLOSE)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize(("guidance", "level"), [(9.0, 20), (1.0, 250)])
def test_the_x4_upscaler_is_the_pipelines_own(x4: Any, guidance: float, level: int, scheduler: str) -> None:
    pipe, coarse = _with_scheduler(x4, scheduler), coarse_of()
    ours = sd_upscale.upscale(pipe, coarse, plain(), prompt="a", guidance_scale=guidance, noise_level=level)
    theirs = pipe(
        "a",
        image=coarse.low,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        noise_level=level,
        generator=draw(),
        output_type="pt",
    ).images
    torch.testing.assert_close(ours.pixels, theirs, **CLOSE)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_latent_diffusion_is_the_pipelines_own(ldm: Any, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, coarse = _with_scheduler(ldm, scheduler), coarse_of()
    # Without its codebook: where two codes are as near, the last bit decides, and that depends on the processor.
    monkeypatch.setattr(pipe.vqvae.quantize, "forward", lambda latents: (latents, None, (None, None, None)))
    ours = ldm_upscale.upscale(pipe, coarse, plain())
    theirs = pipe(2 * coarse.low - 1, num_inference_steps=STEPS, generator=draw(), output_type="pt").images
    torch.testing.assert_close(ours.pixels, theirs, **CLOSE)


def _with_scheduler(pipe: Any, name: str) -> Any:
    import diffusers

    scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    return type(pipe)(**{**pipe.components, "scheduler": scheduler}, **_options(pipe))


def _options(pipe: Any) -> dict[str, bool]:
    return {"requires_safety_checker": False} if "requires_safety_checker" in pipe.config else {}


# Tiles and groups

ADAPTERS: dict[str, tuple[Callable[..., Upscaled], int]] = {  # with the tile of its tests, in latents
    "sd": (sd_img2img.upscale, 8),
    "stablesr": (stablesr.upscale, 8),
    "x4": (sd_upscale.upscale, 16),
    "ldm": (ldm_upscale.upscale, 16),
}


def run(request: pytest.FixtureRequest, name: str, coarse: Coarse, **options: Any) -> Upscaled:
    adapter, patch = ADAPTERS[name]
    pipe = request.getfixturevalue("sd" if name == "stablesr" else name)
    pipe.set_progress_bar_config(disable=True)
    return adapter(pipe, coarse, Sampling(**{"groups": THREE, "patch": patch, **options}))


@pytest.mark.parametrize("name", ADAPTERS)
def test_tiles_take_the_steps_of_their_group(request: pytest.FixtureRequest, name: str) -> None:
    coarse = coarse_of(27, 61)
    pipe = request.getfixturevalue("sd" if name == "stablesr" else name)
    rows = 0

    def count(module: Any, arguments: tuple[Tensor, ...], options: Any) -> None:
        nonlocal rows
        rows += len(arguments[0])

    handle = pipe.unet.register_forward_pre_hook(count, with_kwargs=True)
    made = run(request, name, coarse)
    handle.remove()
    assert made.pixels.shape == (1, 3, 108, 244)
    assert made.pixels.dtype == torch.float32
    assert made.pixels.min() >= 0
    assert made.pixels.max() <= 1
    assert set(made.groups.flatten().tolist()) == {0, 1, 2}
    assert torch.equal(made.evaluations, torch.tensor(THREE.steps)[made.groups])
    assert (made.groups.diff(dim=1) >= 0).all()
    guided = {"sd": 2, "x4": 2}.get(name, 1)  # without the prompt and with it
    assert rows == guided * made.evaluations.sum()
    assert len(made.patch_boxes) == made.groups.numel()
    assert max(top + height for top, _, height, _ in made.patch_boxes) == 108
    assert max(left + width for _, left, _, width in made.patch_boxes) == 244


@pytest.mark.parametrize("name", ADAPTERS)
def test_same_seed_same_picture_whatever_the_batch(request: pytest.FixtureRequest, name: str) -> None:
    coarse = coarse_of(24, 40)
    made = run(request, name, coarse, seed=1)
    assert torch.equal(run(request, name, coarse, seed=1).pixels, made.pixels)
    torch.testing.assert_close(
        run(request, name, coarse, seed=1, batch_latents=1).pixels, made.pixels, atol=1e-5, rtol=1e-5
    )
    assert not torch.allclose(run(request, name, coarse, seed=2).pixels, made.pixels, atol=1e-3)


@pytest.mark.parametrize("name", ["x4", "ldm"])
def test_a_tile_sees_its_own_part_of_the_small_picture(request: pytest.FixtureRequest, name: str) -> None:
    """A change in one corner reaches the network for the tiles there and for no others."""
    coarse, channels = coarse_of(32, 32), {"x4": slice(4, 7), "ldm": slice(3, 6)}[name]
    changed = coarse.low.clone()
    changed[..., :4, :4] = 1 - changed[..., :4, :4]
    pipe = request.getfixturevalue(name)
    seen: list[Tensor] = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0][:1, channels]))
    for low in (coarse.low, changed):
        run(request, name, coarse._replace(low=low), groups=EVERY, overlap=0, batch_latents=1)
    handle.remove()
    before, after = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(before) == 4 * STEPS
    differ = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert differ == [number < STEPS for number in range(4 * STEPS)]
    if name == "ldm":  # no noise is added to it
        assert torch.equal(before[STEPS], 2 * coarse.low[..., :16, 16:] - 1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 40)])
@pytest.mark.parametrize("name", ADAPTERS)
def test_any_size(request: pytest.FixtureRequest, name: str, height: int, width: int) -> None:
    assert run(request, name, coarse_of(height, width)).pixels.shape == (1, 3, 4 * height, 4 * width)


@pytest.mark.parametrize("name", ADAPTERS)
def test_progress_counts_every_tile_step(request: pytest.FixtureRequest, name: str) -> None:
    seen: list[tuple[int, int]] = []
    made = run(request, name, coarse_of(24, 40), on_step=lambda done, total: seen.append((done, total)))
    total = int(made.evaluations.sum())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_the_colours_are_those_of_the_input(request: pytest.FixtureRequest, ldm: Any) -> None:
    grey = Coarse(torch.full((1, 3, 32, 32), 0.25), torch.full((1, 3, 128, 128), 0.25), torch.zeros(1, 1, 16, 16))
    fixed, raw = (run(request, "ldm", grey, colour_fix=wanted).pixels for wanted in (True, False))
    assert abs(float(fixed.mean()) - 0.25) < 0.02 < abs(float(raw.mean()) - 0.25)


# The confidence source


def test_the_restorer_serves_any_grid(tiny_upscaler: Upscaler, photo: Image.Image, tiny_pipeline: Any) -> None:
    made = Coarse.of(tiny_upscaler(photo, steps=(0, 0, 0)))
    assert made.low.shape == (1, 3, 45, 61)
    assert made.pixels.shape == (1, 3, 180, 244)
    assert made.confidence.shape == (1, 1, 23, 31)
    assert 0 < made.confidence.min() <= made.confidence.max() <= 1
    assert made.confidence_at(Size(45, 61)).shape == (1, 1, 45, 61)
    own = tiny_pipeline(photo, steps=(0, 0, 0), output_type="pt")
    torch.testing.assert_close(made.pixels, own.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.confidence, own.confidence, atol=1e-5, rtol=0)


# Errors


def test_errors_of_the_adapters(x4: Any, ldm: Any, sd: Any) -> None:
    with pytest.raises(ConfigError, match="noise_level 400"):
        sd_upscale.upscale(x4, coarse_of(), noise_level=400)
    with pytest.raises(ConfigError, match="EulerDiscreteScheduler scales"):
        ldm_upscale.upscale(_with_scheduler(ldm, "EulerDiscreteScheduler"), coarse_of())
    with pytest.raises(ConfigError, match="patch 0"):
        sd_img2img.upscale(sd, coarse_of(), Sampling(patch=0))
    with pytest.raises(ConfigError, match="no adapter"):
        adapter_for("DDPMPipeline")
    with pytest.raises(WeightsError, match="no such folder"):
        load_backbone("/nowhere/at/all", "cpu", torch.float32)
