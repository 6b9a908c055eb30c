"""Pictures from whatever a program has: files, bytes, PIL pictures, arrays and tensors, one or several."""

from pathlib import Path
from typing import Any, TypeAlias

from numpy import ndarray
from PIL import Image

from patchscaler.errors import ConfigError
from patchscaler.imaging.files import read_picture
from patchscaler.imaging.opening import PictureFile, Readable
from patchscaler.imaging.picture import Picture, decode, from_array, from_tensor

OnePicture: TypeAlias = str | Path | bytes | PictureFile | Readable | Image.Image | Picture


def picture_from(image: object) -> Picture:
    """A Picture from whatever a program has.

    str, Path     a file: `read_picture`; so are bytes, and file objects opened in binary mode
    PIL.Image     at most 8 bits a colour sample (16 for grey): for more, give the path
    numpy array   (H,W), (H,W,3) or (H,W,4); uint8, uint16 or float in [0, 1]
    torch tensor  (3,H,W) or (1,3,H,W) float in [0, 1]
    Picture       as it is

    Raises ImageReadError for files, TypeError for other types, ValueError for other shapes, dtypes and ranges.
    """
    if isinstance(image, str | Path | bytes | PictureFile | Readable):
        return read_picture(image)
    if isinstance(image, Picture):
        return image
    if isinstance(image, Image.Image):
        if min(image.size) < 1:
            raise ValueError(f"a picture of {image.width}x{image.height} has no pixels")
        return decode(image, None)
    if isinstance(image, ndarray):
        return from_array(image)
    if hasattr(image, "detach"):
        return from_tensor(image)
    raise TypeError(f"cannot make a picture of {type(image).__name__}; give a path, PIL.Image, numpy array or tensor")


def pictures_from(image: Any) -> tuple[list[Picture], bool]:
    """The pictures of a call, and whether it is for several: a list, or an array (n,H,W,C) or tensor (n,3,H,W) of more
    than one. Raises ConfigError for none at all, otherwise as `picture_from`."""
    several = isinstance(image, list | tuple)
    pictures: list[Picture] = []
    for item in image if several else [image]:
        stacked = not isinstance(item, Picture) and getattr(item, "ndim", 0) == 4
        pictures += [picture_from(part) for part in item] if stacked else [picture_from(item)]
    if not pictures:
        raise ConfigError("no picture given: the list is empty")
    return pictures, several or len(pictures) > 1
