"""Random float32 arrays, and a comparison with the tolerances of float32."""

from typing import Any

import numpy as np


def uniform(*shape: int, seed: int = 0) -> np.ndarray:
    """In [0, 1)."""
    return np.random.default_rng(seed).random(shape, np.float32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def assert_close(actual: Any, expected: Any, atol: float = 1e-5, rtol: float = 1.3e-6) -> None:
    """Of arrays and tensors."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), atol=atol, rtol=rtol)
