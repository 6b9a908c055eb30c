"""What lists, tables and shards call their pictures, which need not be text, or be there at all."""

import codecs
from typing import Any

NOT_TEXT = "its name is not UTF-8; rename it, and write lists and tables as UTF-8"
LARGEST_SEED = 2**63 - 1


def is_text(name: str) -> bool:
    """False where some bytes of a name were not UTF-8 (they stand there as lone surrogates)."""
    return shown(name) == name


def shown(name: str) -> str:
    """A name as text in any case."""
    return name.encode("utf-8", "backslashreplace").decode()


def lines_of(data: bytes) -> list[str]:
    """The lines of a list in UTF-8, or in UTF-16 with its mark; a mark at the beginning is read over."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16", "replace") if wide else data.decode("utf-8-sig", "surrogateescape")
    return [line.strip() for line in text.splitlines()]


def texts_of(column: Any) -> list[Any]:
    """The values of an Arrow column; text as `is_text` expects it, also where it is none."""
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    values = column.to_pylist()
    return [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in values]


def seed_of(value: Any) -> int | None:
    """A seed from a table's cell, None where it is empty; raises ValueError, with a cure, for what is none."""
    if value is None or value != value:  # NaN, which pandas makes of an empty cell
        return None
    if not isinstance(value, int | float) or value != int(value) or not 0 <= value <= LARGEST_SEED:
        raise ValueError(f"{value!r} is no seed; give a whole number from 0 to {LARGEST_SEED}, or nothing")
    return int(value)
