"""Many pictures on many machines: Ray Data's job around the way of one picture."""

from patchscaler.errors import ConfigError

try:
    import fsspec  # noqa: F401
    import pyarrow  # noqa: F401
except ImportError as error:
    raise ConfigError('batch jobs need Ray and Arrow; install them with: pip install "patchscaler[cluster]"') from error
