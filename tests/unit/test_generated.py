"""What is generated from the sources is as the script would write it now."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/generate.py"


def test_what_is_generated_is_current() -> None:
    generated: dict[Path, str] = runpy.run_path(str(SCRIPT))["generated"]()
    stale = [path.name for path, content in generated.items() if path.read_text(encoding="utf-8") != content]
    assert stale == [], "run `make generate`"
