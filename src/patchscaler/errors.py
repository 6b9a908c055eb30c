"""Every error a user can meet, each a subclass of PatchScalerError whose text names the file or value and the cure."""


class PatchScalerError(Exception):
    """Base of all errors that are the input's or the environment's fault; the CLI prints their text, no traceback."""


class ImageReadError(PatchScalerError):
    """A file is missing, empty, truncated, too large or not a picture."""


class ImageWriteError(PatchScalerError):
    """A result could not be written: unwritable place, full disk, unknown format."""


class WeightsError(PatchScalerError, ValueError):
    """Weights or their config are missing, have unknown or absent keys, wrong shapes or an unknown format version.

    A ValueError too, which diffusers' own loading raises."""


class ConfigError(PatchScalerError):
    """A setting is unknown, out of range or contradicts another one."""


class DataError(PatchScalerError):
    """A training or validation folder holds no usable pictures."""


def reason(name: str, error: Exception) -> str | None:
    """One line on what is wrong with the picture `name`, and the cure; None for an error that is no picture's fault."""
    if isinstance(error, ImageReadError | ImageWriteError):
        return str(error)
    if isinstance(error, PatchScalerError):
        return f"{name}: {error}"
    if isinstance(error, OSError):
        return f"{name}: {error.strerror or error}; check the file and its folder"
    # torch's own error on a GPU; on the CPU it raises a plain RuntimeError.
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if full or "can't allocate memory" in str(error):
        return f"{name}: not enough memory; use a smaller picture, --batch-size or --device cpu"
    return None
