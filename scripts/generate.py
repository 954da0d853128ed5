"""Writes what follows from the sources: the options' documentation, in the docstring of LoadOptions and in the docs.

Without arguments it writes; with ``--check`` it ends with 1 where a file is not as it would be written.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from nbloader._options.as_code import quoted
from nbloader._options.options import ROWS, LoadOptions
from nbloader._text.catalogue import texts

ROOT = Path(__file__).parents[1]
_WIDTH = 116


def generated() -> dict[Path, str]:
    """Return every file that is generated, or has a generated part, with what it should contain."""
    options, page = ROOT / "src/nbloader/_options/options.py", ROOT / "docs/options.md"
    return {
        options: _between(options, "    Parameters\n    ----------\n", "\n    Raises\n", _docstring()),
        page: _between(page, "<!-- options: written by scripts/generate.py -->\n", "<!-- end -->", _table()),
    }


def _between(path: Path, start: str, end: str, content: str) -> str:
    """Return a file's text with everything from `start` to the next `end` replaced."""
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    return before + start + content + end + rest.partition(end)[2]


def _docstring() -> str:
    lines: list[str] = []
    for name in ROWS:
        lines += [f"    {name}"]
        lines += textwrap.wrap(_help(name), _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines) + "\n"


def _table() -> str:
    rows = [f"| `{name}` | {_default(name)} | {_help(name)} |\n" for name in ROWS]
    return "| option | default | what it does |\n|---|---|---|\n" + "".join(rows)


def _help(name: str) -> str:
    return texts("en")["option_help"][name]


def _default(name: str) -> str:
    default = getattr(LoadOptions, name, None)
    return "" if default in (None, "") else f"`{quoted(default)}`"


def main() -> int:
    """Write, or with ``--check`` compare; return the exit status."""
    stale = {path: text for path, text in generated().items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
