"""Every model type that can be built small, every class that it has in an auto mapping: equal to plain loading.

``make sweep`` runs it, and lists at its end which types were left out, and why.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.model_types import LeftOut, check_classes, model_types


@pytest.mark.parametrize("model_type", model_types())
def test_every_class_equals_plain_from_pretrained(model_type: str, tmp_path: Path) -> None:
    try:
        left_out = check_classes(model_type, tmp_path)
    except LeftOut as reason:
        pytest.skip(f"{model_type}: {reason}")
    for reason in left_out:
        print(f"left out: {reason}")
