"""What diffusers' users expect of a pipeline: loading by DiffusionPipeline, callbacks, generators, offloading."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from patchscaler.errors import ConfigError
from tiny_pipeline import build_tiny_pipeline

STEPS = (1, 2, 4)
EVERY = {"gammas": (1.0, 0.999), "steps": STEPS}  # all groups occur, or at least the hardest


def test_loads_by_diffusers_alone(tiny_model: Path, tiny_pipeline: Any, photo: Image.Image, tmp_path: Path) -> None:
    """A program that imports diffusers and nothing of ours: the folder says where the class is."""
    code = f"""
import numpy, torch
from diffusers import DiffusionPipeline
from PIL import Image
def load(folder, custom=None):
    return DiffusionPipeline.from_pretrained(folder, custom_pipeline=custom, trust_remote_code=True)
pipe = load({str(tiny_model)!r}, "patchscaler_pipeline")
picture = Image.open({str(tmp_path / "photo.png")!r})
first = pipe(picture, steps={STEPS}, output_type="np").images
pipe.save_pretrained({str(tmp_path / "again")!r})
again = load({str(tmp_path / "again")!r}, {str(tmp_path / "again" / "patchscaler_pipeline.py")!r})
for other in (again, load({str(tmp_path / "again")!r})):
    numpy.testing.assert_allclose(other(picture, steps={STEPS}, output_type="np").images, first, atol=1e-5)
numpy.save({str(tmp_path / "first.npy")!r}, first)
"""
    photo.save(tmp_path / "photo.png")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    expected = tiny_pipeline(photo, steps=STEPS, output_type="np").images
    np.testing.assert_allclose(np.load(tmp_path / "first.npy"), expected, atol=1e-5)


def test_output_types_are_one_picture(tiny_pipeline: Any, photo: Image.Image) -> None:
    tensor, array, pictures = (
        tiny_pipeline(photo, steps=(0, 1, 1), output_type=kind).images for kind in ("pt", "np", "pil")
    )
    assert tensor.shape == (1, 3, 180, 244)
    assert array.shape == (1, 180, 244, 3)
    assert torch.equal(tensor.permute(0, 2, 3, 1), torch.from_numpy(array))
    assert isinstance(pictures, list)
    assert pictures[0].size == (244, 180)
    (alone,) = tiny_pipeline(photo, steps=(0, 1, 1), output_type="pt", return_dict=False)
    assert torch.equal(alone, tensor)


def test_a_generator_decides_the_noise(tiny_pipeline: Any, photo: Image.Image) -> None:
    def run(seed: int) -> tuple[Tensor, torch.Generator]:
        generator = torch.Generator().manual_seed(seed)
        return tiny_pipeline(photo, **EVERY, generator=generator, output_type="pt").images, generator

    first, used = run(1)
    assert torch.equal(run(1)[0], first)
    assert not torch.equal(run(2)[0], first)
    following = tiny_pipeline(photo, **EVERY, generator=used, output_type="pt").images  # a generator goes on
    assert not torch.equal(following, first)


# Callbacks per step


def test_the_callback_sees_every_step(tiny_pipeline: Any, photo: Image.Image) -> None:
    seen: list[tuple[int, int]] = []

    def look(pipe: Any, step: int, time: Tensor, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        assert pipe is tiny_pipeline
        assert kept["latents"].shape[1:] == (32, 16, 16)
        seen.append((step, int(time)))
        return kept

    plain = tiny_pipeline(photo, **EVERY, output_type="pt").images
    watched = tiny_pipeline(photo, **EVERY, output_type="pt", callback_on_step_end=look).images
    assert seen == [(0, 999), (1, 749), (2, 499), (3, 249)]
    assert torch.equal(watched, plain)
    given: list[dict[str, Tensor]] = []
    options = {"callback_on_step_end_tensor_inputs": (), "output_type": "pt"}
    silent = tiny_pipeline(photo, **EVERY, **options, callback_on_step_end=lambda *all_of: given.append(all_of[-1]))
    assert given == 4 * [{}]
    assert torch.equal(silent.images, plain)


def test_what_the_callback_returns_is_gone_on_with(tiny_pipeline: Any, photo: Image.Image) -> None:
    def black(pipe: Any, step: int, time: Tensor, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.zeros_like(kept["latents"])} if step == 3 else {}

    changed = tiny_pipeline(photo, **EVERY, output_type="pt", callback_on_step_end=black).images
    assert not torch.allclose(changed, tiny_pipeline(photo, **EVERY, output_type="pt").images, atol=1e-2)


def test_an_interrupt_leaves_the_rest_of_the_steps(tiny_pipeline: Any, photo: Image.Image) -> None:
    steps: list[int] = []

    def stop(pipe: Any, step: int, time: Tensor, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        pipe._interrupt = step == 1
        return kept

    assert tiny_pipeline(photo, **EVERY, callback_on_step_end=stop).images[0].size == (244, 180)
    assert steps == [0, 1]
    assert tiny_pipeline.interrupt
    steps.clear()
    tiny_pipeline(photo, **EVERY, callback_on_step_end=lambda pipe, step, *given: steps.append(step))
    assert steps == [0, 1, 2, 3]  # of the next call, all


def test_callbacks_that_cannot_be(tiny_pipeline: Any, photo: Image.Image) -> None:
    with pytest.raises(ConfigError, match="latents are all"):
        tiny_pipeline(photo, callback_on_step_end=print, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    with pytest.raises(ConfigError, match="leave workers out"):
        tiny_pipeline(photo, callback_on_step_end=print, workers=2)


# Offloading


def test_offloaded_weights_are_fetched_before_they_are_used(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate's own hooks, with the CPU as the device. Weights that are away are made NaN, which would show."""
    from accelerate.hooks import CpuOffload

    pipe = build_tiny_pipeline()
    names = {id(part): name for name, part in pipe.components.items()}
    expected = pipe(photo, **EVERY, output_type="pt").images
    pipe.enable_model_cpu_offload(device="cpu")
    away: dict[str, list[Tensor]] = {}
    came: list[str] = []

    def send(module: Any) -> None:
        if names[id(module)] not in away:
            away[names[id(module)]] = [value.data.clone() for value in module.parameters()]
            for value in module.parameters():
                value.data.fill_(torch.nan)

    def fetch(hook: Any, module: Any, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        if hook.prev_module_hook is not None:
            send(hook.prev_module_hook.model)
        if stored := away.pop(names[id(module)], None):
            came.append(names[id(module)])
            for value, old in zip(module.parameters(), stored, strict=True):
                value.data.copy_(old)
        return arguments, options

    monkeypatch.setattr(CpuOffload, "pre_forward", fetch)
    for hook in pipe._all_hooks:
        send(hook.model)
    for options in ({}, {"use_texture": False}):
        came.clear()
        result = pipe(photo, **EVERY, **options, output_type="pt").images
        assert torch.isfinite(result).all()
        for hook in pipe._all_hooks:
            send(hook.model)
        prompt = ["texture_classifier", "texture_encoder"] if not options else []
        rest = [*prompt, "patch_dit", "autoencoder"]
        assert came[-len(rest) :] == rest
        assert came[0] == "restorer"
        assert set(came[: -len(rest)]) == {"restorer", "fusion", "second_restorer"}  # by turns
        if not options:
            torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


# Several pictures, latents, interrupts, the bar, the scheduler


def test_several_pictures_are_each_as_if_alone(tiny_pipeline: Any, photo: Image.Image) -> None:
    small = photo.crop((0, 0, 20, 12))
    both = tiny_pipeline([photo, small], **EVERY)
    assert [picture.size for picture in both.images] == [(244, 180), (80, 48)]
    for picture, result in zip((photo, small), both.results, strict=True):
        alone = tiny_pipeline(picture, **EVERY)
        assert np.array_equal(np.asarray(alone.images[0]), np.asarray(result.images[0]))
        assert torch.equal(alone.groups, result.groups)
    arrays = tiny_pipeline((photo, small), **EVERY, output_type="np").images
    assert [array.shape for array in arrays] == [(1, 180, 244, 3), (1, 48, 80, 3)]


def test_stacks_of_pictures(tiny_pipeline: Any, photo: Image.Image) -> None:
    array = np.stack([np.asarray(photo), np.asarray(photo)[::-1]])
    tensor = torch.from_numpy(array.copy()).permute(0, 3, 1, 2).float() / 255
    first, second = (tiny_pipeline(stack, **EVERY, output_type="np") for stack in (array, tensor))
    assert first.images.shape == (2, 180, 244, 3)
    np.testing.assert_allclose(first.images, second.images, atol=1e-5)
    assert np.shares_memory(first.images, first.results[1].images)
    (single,) = tiny_pipeline(array[:1], **EVERY, output_type="np", return_dict=False)
    assert np.array_equal(single, first.images[:1])
    with pytest.raises(ConfigError, match="no picture given"):
        tiny_pipeline([])


def test_a_generator_for_each_picture(tiny_pipeline: Any, photo: Image.Image) -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    two = tiny_pipeline([photo, photo], **EVERY, generator=generators(1, 2), output_type="pt").images
    assert not torch.equal(two[0], two[1])
    alone = tiny_pipeline(photo, **EVERY, generator=generators(2), output_type="pt").images
    assert torch.equal(two[1:], alone)
    with pytest.raises(ConfigError, match="1 generators for 2 pictures"):
        tiny_pipeline([photo, photo], generator=generators(1))


def test_latents_are_what_the_decoder_gets(tiny_pipeline: Any, photo: Image.Image) -> None:
    from patchscaler.models.latents import decode_latents

    steps = {"steps": (0, 0, 0)}  # then they are the restorer's
    result = tiny_pipeline(photo, **steps, output_type="latent")
    assert result.images.shape == (1, 32, 23, 31)
    assert result.alpha is None
    pixels = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        torch.testing.assert_close(result.images, tiny_pipeline.restore(pixels).latents, atol=1e-5, rtol=0)
        assert decode_latents(tiny_pipeline.autoencoder, result.images).shape == (1, 3, 184, 248)
    refined = tiny_pipeline([photo, photo], **EVERY, output_type="latent").images
    assert refined.shape == (2, 32, 23, 31)
    assert not torch.allclose(refined[:1], result.images, atol=1e-3)


def test_an_interrupt_belongs_to_its_call(tiny_pipeline: Any, photo: Image.Image) -> None:
    """Two calls of one pipeline in two threads: a callback stops its own, a third thread stops both."""
    steps: dict[str, list[int]] = {"stopped": [], "other": []}
    meet = threading.Barrier(2, timeout=60)

    def call(name: str, watch: Any) -> threading.Thread:
        thread = threading.Thread(target=lambda: tiny_pipeline(photo, **EVERY, callback_on_step_end=watch))
        thread.start()
        return thread

    def watched(name: str, at_first: Any) -> Any:
        def watch(pipe: Any, step: int, time: Tensor, kept: dict[str, Tensor]) -> dict[str, Tensor]:
            steps[name].append(step)
            if step == 0:
                meet.wait()  # both are running
                at_first(pipe)
                meet.wait()
            return kept

        return watch

    def stop(pipe: Any) -> None:
        pipe._interrupt = True

    threads = [call("stopped", watched("stopped", stop)), call("other", watched("other", lambda pipe: None))]
    for thread in threads:
        thread.join()
    assert steps == {"stopped": [0], "other": [0, 1, 2, 3]}

    from_outside: list[int] = []

    def outside(pipe: Any, step: int, time: Tensor, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        from_outside.append(step)
        button = threading.Thread(target=stop, args=(pipe,))
        button.start()
        button.join()
        return kept

    tiny_pipeline(photo, **EVERY, callback_on_step_end=outside)
    assert from_outside == [0]


def test_an_interrupt_leaves_the_pictures_that_follow_coarse(tiny_pipeline: Any, photo: Image.Image) -> None:
    def stop(pipe: Any, step: int, time: Tensor, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        pipe._interrupt = True
        return kept

    both = tiny_pipeline([photo, photo], **EVERY, output_type="pt", callback_on_step_end=stop)
    assert torch.equal(both.images[1:], tiny_pipeline(photo, steps=(0, 0, 0), output_type="pt").images)
    assert both.results[1].report.patch_steps == 0


def test_the_number_of_steps_is_known_in_the_call(tiny_pipeline: Any, photo: Image.Image) -> None:
    seen: list[int] = []
    tiny_pipeline(photo, **EVERY, callback_on_step_end=lambda pipe, *given: seen.append(pipe.num_timesteps))
    assert seen == [4, 4, 4, 4]
    assert tiny_pipeline.num_timesteps == 4


def test_the_bar_counts_patch_steps(photo: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = build_tiny_pipeline()
    pipe(photo, **EVERY)
    assert not capsys.readouterr().err  # not a terminal
    pipe.set_progress_bar_config(disable=False, desc="patches")
    report = pipe(photo, **EVERY).report
    assert f"patches: 100%|██████████| {report.patch_steps}/{report.patch_steps}" in capsys.readouterr().err
    pipe(photo, **EVERY, on_progress=lambda progress: None)
    assert not capsys.readouterr().err  # who follows the progress draws it


def test_a_scheduler_that_would_change_nothing_is_refused(photo: Image.Image) -> None:
    pipe = build_tiny_pipeline()
    config, plain = pipe.scheduler.config, pipe(photo, **EVERY, output_type="pt").images
    pipe.scheduler = EulerDiscreteScheduler.from_config(config)
    with pytest.raises(ConfigError, match="EulerDiscreteScheduler would change nothing"):
        pipe(photo)
    pipe.scheduler = DDIMScheduler.from_config(config, timestep_spacing="leading")
    with pytest.raises(ConfigError, match="timestep_spacing 'leading' would change nothing: it must be 'trailing'"):
        pipe(photo)
    pipe.scheduler = DDIMScheduler.from_config(config, beta_end=0.02)  # another noise schedule is obeyed
    assert not torch.allclose(pipe(photo, **EVERY, output_type="pt").images, plain, atol=1e-3)
