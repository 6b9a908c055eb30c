"""Annotations of numpy code. Shapes are checked by jaxtyping in the tests; elsewhere they aren't evaluated, because
importing it takes as long as numpy itself."""

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Float", "Indices", "Int64", "Shaped"]

Array: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.int64]

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float, Int64, Shaped
else:

    class _Unchecked:
        def __getitem__(self, shape: Any) -> Any:
            return Any

    Float = Int64 = Shaped = _Unchecked()
