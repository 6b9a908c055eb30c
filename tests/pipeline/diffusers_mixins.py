"""diffusers' own test mixins over our pipeline and its parts, from a checkout of diffusers' repository at the installed
version or the nearest, which holds the mixins (`pip install parameterized requests-mock` for them):

    PYTHONPATH=CHECKOUT:tests/support python -m pytest -c /dev/null --rootdir . -W ignore THIS_FILE

Not among the tests that are run by themselves, since no package has the mixins.
"""

import functools
import unittest
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import tests.testing_utils as device_of_tests  # type: ignore[import-not-found]  # of the checkout
import torch
from accelerate import cpu_offload
from diffusers.utils import BaseOutput
from torch import Tensor

if device_of_tests.torch_device == "cpu":  # what only moves weights around does so between the CPU and itself
    device_of_tests.require_accelerator = device_of_tests.require_torch_accelerator = lambda test: test

from tests.models.testing_utils import (  # type: ignore[import-not-found]
    BaseModelTesterConfig,
    MemoryTesterMixin,
    ModelTesterMixin,
    TrainingTesterMixin,
)
from tests.pipelines.test_pipelines_common import (  # type: ignore[import-not-found]
    PipelineFromPipeTesterMixin,
    PipelineLatentTesterMixin,
    PipelineTesterMixin,
)

import patchscaler
from tiny_pipeline import build_tiny_pipeline


def refused(test: Any, reason: str) -> Any:
    """A test that can't apply; were it to pass, it would fail."""

    @functools.wraps(test)
    def own(*arguments: Any, **named: Any) -> Any:
        return test(*arguments, **named)

    return pytest.mark.xfail(strict=True, reason=reason)(own)


def with_streams_alone(test: Any) -> Any:
    """The test, skipped where it asks for an accelerator's streams."""

    @functools.wraps(test)
    def own(*arguments: Any, **named: Any) -> Any:
        try:
            return test(*arguments, **named)
        except Exception as error:
            if "backend implements streams" in str(error):
                pytest.skip(str(error))
            raise

    return own


def drawn(*shape: int) -> Tensor:
    """The same numbers in [0, 1) at every call."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


class PatchScalerPipeline(patchscaler.PatchScalerPipeline):
    """The pipeline under the names that the mixins look for; asked for pickled weights, it saves safetensors."""

    @property
    def transformer(self) -> Any:
        return self.patch_dit

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        super().enable_model_cpu_offload(gpu_id, device or device_of_tests.torch_device)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        if torch.device(device).type != "cpu":
            super().enable_sequential_cpu_offload(gpu_id, device)
            return
        self.remove_all_hooks()  # as diffusers does, but for its device "cpu:0", of which accelerate loses the weights
        for name, part in self.components.items():
            if isinstance(part, torch.nn.Module) and name not in self._exclude_from_cpu_offload:
                cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)

    def save_pretrained(self, save_directory: Any, safe_serialization: bool = True, **options: Any) -> None:
        super().save_pretrained(save_directory, **options)


class TestPipeline(PipelineFromPipeTesterMixin, PipelineLatentTesterMixin, PipelineTesterMixin, unittest.TestCase):
    """One picture of 24 x 32 pixels, every patch with two steps."""

    pipeline_class = PatchScalerPipeline
    original_pipeline_class = PatchScalerPipeline  # of from_pipe
    params = frozenset({"image"})  # seed, steps, ... come by name as Options
    batch_params = frozenset({"image"})
    image_params = frozenset({"image"})
    image_latents_params: frozenset[str] = frozenset()
    required_optional_params = frozenset({"generator", "output_type", "return_dict", "callback_on_step_end"})
    test_layerwise_casting = True
    test_group_offloading = True

    def get_dummy_components(self) -> dict[str, Any]:
        return dict(build_tiny_pipeline().components)

    def get_dummy_inputs(self, device: str, seed: int = 0) -> dict[str, Any]:
        image = drawn(1, 3, 24, 32).to(device)
        return {"image": image, "generator": self.get_generator(seed), "steps": (2, 2, 2), "output_type": "np"}

    test_from_pipe_consistent_config = refused(
        PipelineFromPipeTesterMixin.test_from_pipe_consistent_config,
        "shares parts with Stable Diffusion, which has none of ours",
    )
    test_multi_vae = refused(
        PipelineLatentTesterMixin.test_multi_vae,
        "puts in other autoencoders: our networks are trained on the latents of theirs",
    )

    def test_inference_batch_single_identical(self) -> None:
        # The mixin copies num_inference_steps, which we have per group of patches.
        self._test_inference_batch_single_identical(additional_params_copy_to_batched_inputs=[])


@dataclass
class Result(BaseOutput):
    """A network's one or two results, as diffusers' networks return theirs."""

    first: Any
    second: Any = None


class Part(ModelTesterMixin, MemoryTesterMixin, TrainingTesterMixin, BaseModelTesterConfig):
    """One network; `settings` of its config, `inputs` of its forward, `output_shape` of one sample."""

    def __init_subclass__(cls) -> None:
        for name in dir(cls):
            if name.startswith("test_"):
                setattr(cls, name, with_streams_alone(getattr(cls, name)))

    network: type
    settings: ClassVar[dict[str, Any]] = {}
    output_shape: tuple[int, ...] = ()

    @property
    def model_class(self) -> type:
        """The network, with the return_dict that the mixins pass everywhere."""
        network: Any = self.network
        if "Adapted" not in vars(type(self)):

            def forward(model: Any, *inputs: Any, return_dict: bool = True, **named: Any) -> Any:
                result = network.forward(model, *inputs, **named)
                parts = tuple(result) if isinstance(result, tuple) else (result,)
                return Result(*parts) if return_dict else parts

            type(self).Adapted = type(network.__name__, (network,), {"forward": forward})  # type: ignore[attr-defined]
        return type(self).Adapted  # type: ignore[attr-defined,no-any-return]

    def test_layerwise_casting_memory(self) -> None:
        if device_of_tests.torch_device == "cpu":
            pytest.skip("the memory of tensors isn't measured on the CPU")
        super().test_layerwise_casting_memory()

    def get_init_dict(self) -> dict[str, Any]:
        return dict(self.settings)

    def get_dummy_inputs(self) -> dict[str, Any]:
        raise NotImplementedError


class TestConvRestorer(Part):
    network = patchscaler.ConvRestorer
    settings = {"latent_channels": 8, "width": 8, "blocks": 2, "block": "plain"}  # noqa: RUF012
    output_shape = (8, 8, 6)
    main_input_name = "pixels"

    def get_dummy_inputs(self) -> dict[str, Any]:
        return {"pixels": drawn(1, 3, 16, 12)}


class TestSwinRestorer(Part):
    network = patchscaler.SwinRestorer
    settings = {"latent_channels": 4, "width": 12, "groups": 1, "blocks": 2, "heads": 2, "window": 4}  # noqa: RUF012
    output_shape = (4, 8, 6)
    main_input_name = "latents"

    def get_dummy_inputs(self) -> dict[str, Any]:
        return {"latents": drawn(1, 4, 8, 6)}


class TestPatchDiT(Part):
    network = patchscaler.PatchDiT
    settings = {  # noqa: RUF012
        "latent_channels": 4,
        "sample_size": 8,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "texture_width": 16,
    }
    output_shape = (4, 8, 8)
    main_input_name = "x_t"

    def get_dummy_inputs(self) -> dict[str, Any]:
        coarse = drawn(2, 4, 8, 8)
        t = torch.tensor([999, 250])
        return {"x_t": coarse + 1, "t": t, "coarse": coarse, "log_error": drawn(2, 1, 8, 8), "texture": drawn(2, 4, 16)}


class TestTextureClassifier(Part):
    network = patchscaler.TextureClassifier
    settings = {"latent_channels": 4, "width": 8, "blocks": 1, "features": 8, "targets": 4}  # noqa: RUF012
    output_shape = (8,)
    main_input_name = "patches"

    def get_dummy_inputs(self) -> dict[str, Any]:
        return {"patches": drawn(2, 4, 8, 8)}


class TestTextureEncoder(Part):
    network = patchscaler.TextureEncoder
    settings = {"latent_channels": 4, "sample_size": 8, "width": 16, "top_k": 2}  # noqa: RUF012
    output_shape = (8, 16)
    main_input_name = "values"

    def get_dummy_inputs(self) -> dict[str, Any]:
        return {"values": drawn(2, 2, 4, 8, 8), "similarities": drawn(2, 2)}


class TestReferenceTextureMemory(Part):
    network = patchscaler.ReferenceTextureMemory
    settings = {"latent_channels": 4, "sample_size": 8, "features": 8, "size": 5}  # noqa: RUF012
    output_shape = (2, 4, 8, 8)
    main_input_name = "queries"
    test_training, test_training_with_ema, test_layerwise_casting_training = (
        refused(test, "the memory has no parameters to train")
        for test in (Part.test_training, Part.test_training_with_ema, Part.test_layerwise_casting_training)
    )

    def get_dummy_inputs(self) -> dict[str, Any]:
        return {"queries": drawn(2, 8), "top_k": 2}


class TestDctAutoencoder(Part):
    network = patchscaler.DctAutoencoder
    settings = {"luma": 6, "chroma": 1, "width": 8, "blocks": 1, "fine_width": 8, "fine_blocks": 1}  # noqa: RUF012
    output_shape = (3, 32, 24)
    main_input_name = "latents"

    def get_dummy_inputs(self) -> dict[str, Any]:
        return {"latents": drawn(1, 8, 4, 3)}
