"""The exported bundled model against torch on ten crops of the example pictures, and on both whole: docs/onnx.md.

patchscaler export onnx model_onnx/
python scripts/check_onnx.py model_onnx examples/cat.png examples/parrot.png
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from patchscaler import PatchScalerPipeline
from patchscaler.onnx.runner import OnnxUpscaler


def crops_of(path: str) -> list[np.ndarray]:
    """Five parts of a picture, of odd and even sides."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    sides = [(20 + 7 * number, 61 - 8 * number) for number in range(5)]
    return [pixels[13 * number :][:height, 9 * number :][:, :width] for number, (height, width) in enumerate(sides)]


def timed(make: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result and the least seconds of the processor, which other programs do not disturb much."""
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        result = make()
        seconds.append(time.process_time() - begin)
    return result, min(seconds)


def main(folder: str, *paths: str) -> None:
    torch.set_num_threads(1)
    pipe: Any = PatchScalerPipeline.from_pretrained(dtype=torch.float32)
    runner = OnnxUpscaler(folder, threads=1)
    wholes = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    print("| picture | largest difference, in 255ths | torch, processor seconds | ONNX Runtime |\n|---|---|---|---|")
    for number, image in enumerate([*(crop for path in paths for crop in crops_of(path)), *wholes]):
        wanted, slow = timed(lambda: pipe(image, seed=number, output_type="np").images[0], 3)  # noqa: B023
        found, quick = timed(lambda: runner(image, seed=number), 3)  # noqa: B023
        size = "x".join(map(str, image.shape[:2]))
        print(f"| {size} | {255 * np.abs(found - wanted).max():.5f} | {slow:.2f} | {quick:.2f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
