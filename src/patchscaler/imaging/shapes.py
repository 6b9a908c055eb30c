"""Shapes in annotations of numpy code, which jaxtyping checks in the tests: elsewhere they aren't evaluated, because
importing it takes as long as numpy itself."""

import sys
from typing import TYPE_CHECKING, Any

__all__ = ["Float", "Int64", "Shaped"]

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float, Int64, Shaped
else:

    class _Unchecked:
        def __getitem__(self, shape: Any) -> Any:
            return Any

    Float = Int64 = Shaped = _Unchecked()
