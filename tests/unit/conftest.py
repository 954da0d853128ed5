"""Unit tests take seconds because they build and load no model."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_model_is_built() -> Iterator[None]:
    """Fail where a module's tests import what builds models."""
    large = {"torch", "transformers"}
    before = large & sys.modules.keys()
    yield
    assert large & sys.modules.keys() == before
