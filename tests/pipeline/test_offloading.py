"""Weights that are elsewhere between uses: offloading, casting and quantizing of every kind make the same picture.

On the CPU, as real as on a GPU where weights go to the meta device or the disk: what is read past a hook isn't there.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from patchscaler import SwinRestorer
from patchscaler.errors import ConfigError
from patchscaler.models.open_weights import weights_lie_open
from random_networks import randn, shaken
from tiny_pipeline import build_tiny_pipeline

EVERY = {"gammas": (1.0, 0.999), "steps": (1, 2, 4), "output_type": "pt"}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty_is_nan() -> Iterator[None]:
    """Memory that nobody has written, as offloading to disk leaves it in place of weights, is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def expected(photo: Image.Image) -> Tensor:
    return build_tiny_pipeline()(photo, **EVERY).images


def sequential(pipe: Any, folder: Path) -> None:
    """What enable_sequential_cpu_offload does, but for its device "cpu:0", of which accelerate loses the weights."""
    from accelerate import cpu_offload

    for name, part in pipe.components.items():
        if isinstance(part, nn.Module) and name not in pipe._exclude_from_cpu_offload:
            cpu_offload(part, CPU, offload_buffers=len(part._parameters) > 0)


def accelerate_restorer(pipe: Any, folder: Path) -> None:
    from accelerate import cpu_offload

    cpu_offload(pipe.restorer, CPU)


def accelerate_disk(pipe: Any, folder: Path) -> None:
    from accelerate import disk_offload

    for name in ("restorer", "patch_dit", "texture_classifier", "texture_encoder", "autoencoder"):
        disk_offload(getattr(pipe, name), str(folder / name), CPU)


def group(**options: Any) -> Callable[[Any, Path], None]:
    return lambda pipe, folder: pipe.enable_group_offload(CPU, **options)


def group_on_disk(**options: Any) -> Callable[[Any, Path], None]:
    return lambda pipe, folder: pipe.enable_group_offload(CPU, offload_to_disk_path=str(folder), **options)


KINDS: dict[str, Callable[[Any, Path], None]] = {
    "sequential": sequential,
    "accelerate, restorer alone": accelerate_restorer,
    "accelerate, disk": accelerate_disk,
    "leaves": group(offload_type="leaf_level"),
    "blocks": group(offload_type="block_level", num_blocks_per_group=1),
    "leaves on disk": group_on_disk(offload_type="leaf_level"),
    "blocks on disk": group_on_disk(offload_type="block_level", num_blocks_per_group=1),
    "two blocks on disk": group_on_disk(offload_type="block_level", num_blocks_per_group=2),
    "all but one on disk": group_on_disk(offload_type="leaf_level", exclude_modules="restorer"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_offloaded_networks_make_the_same_picture(
    kind: str, expected: Tensor, photo: Image.Image, tmp_path: Path
) -> None:
    pipe = build_tiny_pipeline()
    KINDS[kind](pipe, tmp_path)
    for _ in range(2):  # weights that have been away and come back
        result = pipe(photo, **EVERY)
        torch.testing.assert_close(result.images, expected, atol=1e-5, rtol=0)
        assert result.report.device.startswith("cpu")
    assert torch.isfinite(pipe(photo, **EVERY, use_texture=False).images).all()


@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_the_window_restorer_is_offloaded_too(offload_type: str, tmp_path: Path) -> None:
    network: Any = shaken(SwinRestorer(width=12, groups=2, blocks=2, heads=2, window=4))
    latents = randn(1, 1, 4, 9, 7)
    expected = network(latents).latents
    options = {"offload_type": offload_type, "num_blocks_per_group": 1, "offload_to_disk_path": str(tmp_path)}
    network.enable_group_offload(CPU, **options)
    with torch.no_grad():
        torch.testing.assert_close(network(latents).latents, expected, atol=1e-6, rtol=0)


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    """diffusers would take the files that lie there for the weights."""
    build_tiny_pipeline().enable_group_offload(CPU, offload_type="leaf_level", offload_to_disk_path=str(tmp_path))
    with pytest.raises(ConfigError, match="not empty; offload to a fresh folder"):
        build_tiny_pipeline().enable_group_offload(CPU, offload_type="leaf_level", offload_to_disk_path=str(tmp_path))


def test_workers_are_refused_beside_offloading(photo: Image.Image) -> None:
    pipe = build_tiny_pipeline()
    pipe.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(ConfigError, match="workers need plain copies"):
        pipe(photo, workers=2)


# Other forms of weights


def test_weights_cast_layer_by_layer(photo: Image.Image) -> None:
    """Stored in half precision, computed in float32: the picture of half-precision weights."""
    rounded, cast = build_tiny_pipeline(), build_tiny_pipeline()
    for name in ("restorer", "patch_dit", "texture_classifier", "texture_encoder", "autoencoder"):
        part = getattr(rounded, name)
        for layer in part.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.half().float()
        getattr(cast, name).enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)
    assert cast.patch_dit.entry.weight.dtype == torch.float16
    result = cast(photo, **EVERY)
    torch.testing.assert_close(result.images, rounded(photo, **EVERY).images, atol=1e-5, rtol=0)
    assert result.report.dtype == "float32"


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_storage_is_close(expected: Tensor, photo: Image.Image, storage: torch.dtype) -> None:
    pipe = build_tiny_pipeline()
    for name in ("restorer", "patch_dit", "texture_classifier", "texture_encoder", "autoencoder"):
        getattr(pipe, name).enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    assert (pipe(photo, **EVERY).images - expected).abs().mean() < 0.05


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning", "ignore:torch.ao:DeprecationWarning")
def test_dynamic_quantization_is_close(expected: Tensor, photo: Image.Image) -> None:
    pipe = build_tiny_pipeline()
    for name in ("patch_dit", "texture_encoder", "texture_classifier"):
        quantized = torch.ao.quantization.quantize_dynamic(getattr(pipe, name), {nn.Linear}, dtype=torch.qint8)
        setattr(pipe, name, quantized)
    assert not weights_lie_open(pipe.patch_dit)
    assert (pipe(photo, **EVERY).images - expected).abs().mean() < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_autocast_around_the_call_changes_nothing(expected: Tensor, photo: Image.Image, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=dtype):
        result = build_tiny_pipeline()(photo, **EVERY).images
    assert torch.equal(result, expected)
