"""The bundled model gives the picture that it gave: golden values, renewed by `python scripts/renew_golden.py`."""

import json
from typing import Any

import numpy as np
import pytest

from pages import script

RENEW = script("renew_golden")
TOLERANCE = 2e-3  # in [0, 1]: half an 8-bit step; processors and libraries differ by far less


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if not RENEW.GOLDEN.is_file():
        pytest.fail(f"{RENEW.GOLDEN} is missing: make it with `python scripts/renew_golden.py`", pytrace=False)
    return json.loads(RENEW.GOLDEN.read_text())


@pytest.fixture(scope="module")
def measured(golden: dict[str, Any]) -> dict[str, Any]:
    return RENEW.measure()


@pytest.mark.parametrize("key", ["mean", "std"])
def test_pixels(golden: dict[str, Any], measured: dict[str, Any], key: str) -> None:
    np.testing.assert_allclose(measured[key], golden[key], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("key", ["picture", "steps", "size", "patches"])
def test_facts(golden: dict[str, Any], measured: dict[str, Any], key: str) -> None:
    assert measured[key] == golden[key]
