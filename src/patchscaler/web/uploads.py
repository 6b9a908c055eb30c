"""Pictures from strangers: counted while they stream in, looked at before they are decoded, refused in one line."""

import functools
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import anyio
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from patchscaler.errors import ImageReadError
from patchscaler.imaging.files import find_frames, read_picture
from patchscaler.imaging.geometry import Size
from patchscaler.imaging.mending import mend
from patchscaler.imaging.opening import PictureFile, file_of, open_picture, readable, register_heif
from patchscaler.imaging.unreadable import DECODE_ERRORS
from patchscaler.stages.sizes import target_size
from patchscaler.web.jobs import Job
from patchscaler.web.settings import LONGEST_SIDES, MIB, Limits
from patchscaler.web.work import save_thumbnail

# Formats as Pillow calls them. The others stay closed: some of its readers start programs (EPS), some are little used.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF")
# A client that is refused may be sending still, and would not read the answer before it is through.
DRAIN_BYTES, DRAIN_SECONDS = 8 * MIB, 3.0


class Uploads:
    """Those under way: they end when the server stops, rather than keep it waiting."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._scopes: set[anyio.CancelScope] = set()
        self._stopped = False

    def stop(self) -> None:
        """To be called in the event loop."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    async def receive(self, request: Request, target: Path) -> None:
        """Write the body to `target`. Raises HTTPException: 400 empty or broken off, 408 too slow, 413 too long, 503 at
        the server's end."""
        seconds = self.limits.upload_seconds
        with anyio.move_on_after(seconds) as scope:
            self._scopes.add(scope)
            try:
                await _write(request, target, self.limits)
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            if self._stopped:
                raise HTTPException(503, "the server is stopping")
            raise HTTPException(408, f"the upload took longer than {seconds:g} seconds")


async def _write(request: Request, target: Path, limits: Limits) -> None:
    too_long = HTTPException(413, f"the upload has more than the {limits.max_bytes / MIB:g} MiB that are allowed")
    length = request.headers.get("content-length", "0")
    stream, count = request.stream(), 0
    try:
        if length.isdecimal() and int(length[:20]) > limits.max_bytes:
            raise too_long
        with target.open("xb") as file:
            async for chunk in stream:
                count += len(chunk)
                if count > limits.max_bytes:
                    raise too_long
                file.write(chunk)
    except ClientDisconnect:
        raise HTTPException(400, "the upload was broken off") from None
    except HTTPException:
        with suppress(ClientDisconnect), anyio.move_on_after(DRAIN_SECONDS):
            async for chunk in stream:
                count += len(chunk)
                if count > limits.max_bytes + DRAIN_BYTES:
                    break
        raise
    if not count:
        raise HTTPException(400, "the body is empty; send the picture itself as the body of the request")


@functools.cache
def known_formats() -> list[str]:
    """Those that this server opens: AVIF and HEIF hang on what is installed."""
    register_heif()
    return list(readable(FORMATS))


def check(job: Job, limits: Limits) -> None:
    """Decode the upload once, so that a damaged one is refused now; leaves its size and small picture in the job.

    Raises HTTPException: 413 more pixels than allowed (by its header, before decoding), 415 no picture of a known
    format, 422 damaged, or too long for the format of the result.
    """
    size = _size_by_header(job.input)
    if size.height * size.width > limits.max_pixels:
        raise HTTPException(
            413, f"the picture has {size.width}x{size.height} pixels; {limits.max_pixels:,} are allowed"
        )
    longest = LONGEST_SIDES.get(job.options.format)
    if longest and max(target_size(size, scale=job.options.scale)) > longest:
        raise HTTPException(422, f"a {job.options.format.value} may be {longest} pixels long; choose png or tif")
    try:
        _refuse_frames(job.input)
        picture = read_picture(job.input, max_pixels=limits.max_pixels)
    except ImageReadError as error:
        raise HTTPException(422, str(error).replace(f"{job.input}: ", "")) from None
    job.input_size = picture.size
    save_thumbnail(picture, job)


def _size_by_header(path: Path) -> Size:
    file = file_of(path)
    with suppress(*DECODE_ERRORS):
        return _header(file)
    with suppress(*DECODE_ERRORS):
        if mended := mend(file, max_pixels=0):
            return _header(mended.file)
    _refuse_type()


def _header(file: PictureFile) -> Size:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        with open_picture(file, formats=FORMATS) as image:
            return Size(image.height, image.width)


def _refuse_frames(path: Path) -> None:
    if len(frames := find_frames(path)) > 1:
        raise HTTPException(422, f"has {len(frames)} frames or pages; send the one you want as a picture of its own")


def _refuse_type() -> NoReturn:
    names = ", ".join(known_formats())
    raise HTTPException(415, f"not a picture of a known format ({names}); send the file itself as the body") from None
