"""What the pipeline takes: files, arrays, tensors and pictures of every mode are the same picture to it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arrays import assert_close
from made_pictures import as_tensor
from patchscaler import PatchScalerPipeline
from patchscaler.imaging.files import read_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.resize import resize_bicubic

FEW = (1, 2, 3)


def save_as(photo: Image.Image, kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.png"
    if kind == "RGBA":
        alpha = Image.fromarray(np.tile(np.linspace(1, 255, photo.width).astype(np.uint8), (photo.height, 1)))
        photo.putalpha(alpha)
        photo.save(path)
    elif kind == "I;16":
        Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(path)
    else:
        photo.convert(kind).save(path)
    return path


@pytest.mark.parametrize(("kind", "mode"), [("RGBA", "RGBA"), ("L", "L"), ("P", "RGB"), ("I;16", "L")])
def test_modes_of_pictures(
    tiny_pipeline: PatchScalerPipeline, photo: Image.Image, tmp_path: Path, kind: str, mode: str
) -> None:
    path = save_as(photo.copy(), kind, tmp_path)
    result = tiny_pipeline(path, steps=FEW)
    assert (result.images[0].mode, result.images[0].size) == (mode, (4 * 61, 4 * 45))
    picture = read_picture(path)
    plain = tiny_pipeline(torch.from_numpy(picture.pixels), steps=FEW)
    colours = "L" if mode == "L" else "RGB"
    found, expected = (np.asarray(image.convert(colours), int) for image in (result.images[0], plain.images[0]))
    assert np.abs(found - expected).max() <= 1
    assert (result.alpha is None) == (kind != "RGBA")
    if result.alpha is not None:
        plain_alpha = resize_bicubic(picture.alpha, Size(180, 244))
        assert np.abs(result.alpha.numpy() - plain_alpha).mean() < 0.05  # it goes its own way, as a grey picture


def test_grey_and_sixteen_bit_agree(tiny_pipeline: PatchScalerPipeline, photo: Image.Image, tmp_path: Path) -> None:
    grey, deep = (tiny_pipeline(save_as(photo, kind, tmp_path), steps=FEW, output_type="pt") for kind in ("L", "I;16"))
    assert_close(grey.images, deep.images, atol=1e-6, rtol=0)


def test_a_rotated_photo_is_upright(tiny_pipeline: PatchScalerPipeline, photo: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    photo.save(tmp_path / "turned.png", exif=exif)
    upright = photo.transpose(Image.Transpose.ROTATE_270)
    result = tiny_pipeline(tmp_path / "turned.png", steps=FEW, output_type="pt")
    assert result.images.shape == (1, 3, 4 * 61, 4 * 45)
    assert torch.equal(result.images, tiny_pipeline(upright, steps=FEW, output_type="pt").images)


def test_all_kinds_of_input_agree(tiny_pipeline: PatchScalerPipeline, photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.png")
    path = tmp_path / "photo.png"
    inputs = (photo, path, str(path), np.asarray(photo), as_tensor(photo), as_tensor(photo)[None], read_picture(path))
    results = [tiny_pipeline(image, steps=FEW, output_type="pt").images for image in inputs]
    for result in results[1:]:
        assert_close(result, results[0], atol=1e-5, rtol=0)
