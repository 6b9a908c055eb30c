"""Fine patterns that the restorers might take for noise stay in the picture."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from patchscaler import Upscaler

ROWS, COLUMNS = np.mgrid[0:96, 0:128]
PATTERNS = {
    "weave": 127.5 + 60 * np.sin(np.pi * ROWS / 2) * np.sin(np.pi * COLUMNS / 2),
    "check": 255.0 * ((ROWS // 2 + COLUMNS // 2) % 2),
}


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(engine="onnx")


@pytest.mark.parametrize("name", PATTERNS)
def test_at_least_half_of_bicubics_contrast_is_kept(upscaler: Upscaler, name: str) -> None:
    picture = Image.fromarray(PATTERNS[name].astype(np.uint8)).convert("RGB")
    bicubic = np.asarray(picture.resize((512, 384), Image.Resampling.BICUBIC))
    enlarged: NDArray[np.float32] = upscaler(picture).pixels
    assert enlarged.std() * 255 >= 0.5 * bicubic.std()
