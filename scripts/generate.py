"""Writes what follows from the sources: the documentation of options and errors, and the front end's types.

Without arguments it writes; with ``--check`` it ends with 1 where a file is not as it would be written.
"""

from __future__ import annotations

import ast
import inspect
import re
import string
import sys
import textwrap
import typing
from pathlib import Path

import nbloader
from nbloader._errors import code_of
from nbloader._options.as_code import quoted
from nbloader._options.options import ROWS, LoadOptions
from nbloader._text.catalogue import texts
from nbloader._views import wire
from nbloader._views.saved import colors

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src/nbloader"
_WIDTH = 116


def generated() -> dict[Path, str]:
    """Return every file that is generated, or has a generated part, with what it should contain."""
    options, page = SOURCES / "_options/options.py", ROOT / "docs/options.md"
    return {
        ROOT / "docs/errors.md": _errors(),
        ROOT / "js/src/wire.ts": _wire(),
        ROOT / "js/src/css/tokens.css": _tokens(),
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


_CHOSEN_LATER = {
    "wrong_file_format": [("content_hint", "html"), ("content_hint", "gzip")],
    "import_failed": [("hint", "reinstall"), ("hint", "match_torch")],
    "missing_package": [("hint", "pip")],
    "model_type_needs_code": [("hint", "read_code")],
    "remote_code_required": [("hint", "read_code")],
}
"""Hints of errors that get theirs where they are not raised, or by what they are about."""

_GIVING_HINTS = {
    "did_you_mean": ("known",),
    "_about_token": ("token_missing", "token_expired", "token_without_access"),
}
"""Functions that return one of these hints."""

_INTRODUCTION = """# Errors

A load that cannot succeed raises a `LoadError`. Each error has a stable `code`, a message that says what happened and
where, and a hint that says what to do. The panel and the command line show the code; `progress_callback` gets it as
`"code"`.

```python
import nbloader

try:
    nbloader.load("no/such/folder", progress=False, local_files_only=True)
except nbloader.LoadError as error:
    print(error.code)
```

In the tables, words in *italics* are placeholders: the message has the path, name or number there. This page is written
by `scripts/generate.py`.
"""


def _errors() -> str:
    """Return the page of all error codes, by the class that is raised with each."""
    english, rows = texts("en"), _raised()
    missing = english["error"].keys() - {key for group, key in rows if group == "error"}
    assert not missing, f"nothing raises {sorted(missing)}"
    by_class: dict[str, list[str]] = {}
    for (group, key), (kind, hints) in sorted(rows.items()):
        code = code_of(group, key)
        hints = hints or _CHOSEN_LATER[key]
        advice = " *Or:* ".join(_shown(english[of][hint]) for of, hint in hints)
        cells = f'<a id="{code}"></a>`{code}` | {_shown(english[group][key])} | {advice}'
        by_class.setdefault(kind, []).append(f"| {cells} |\n")
    made = [_INTRODUCTION]
    for kind, lines in sorted(by_class.items()):
        meaning = inspect.cleandoc(getattr(nbloader, kind).__doc__).splitlines()[0]
        head = "| code | what happened | what to do |\n|---|---|---|\n"
        made.append(f"## {kind}\n\n{meaning}\n\n{head}{''.join(lines)}")
    return "\n".join(made)


def _shown(text: str) -> str:
    """Return a text of the catalogue with its arguments as words in italics."""
    parts = ((literal, name) for literal, name, _, _ in string.Formatter().parse(text))
    shown = "".join(literal.replace("*", r"\*") + (f"*{name}*" if name else "") for literal, name in parts)
    # A placeholder within code would show its asterisks.
    shown = re.sub(r"`([^`*]*?) ?(\*\w+\*)`", r"`\1` \2", shown)
    return shown.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


def _raised() -> dict[tuple[str, str], tuple[str, list[tuple[str, str]]]]:
    """Return what is raised with each error text: (class, hints), as the sources have them side by side."""
    made: dict[tuple[str, str], tuple[str, list[tuple[str, str]]]] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            kind = call.func.id if isinstance(call.func, ast.Name) else ""
            if not (kind.endswith("Error") and hasattr(nbloader, kind) and call.args):
                continue
            for error in _keys(call.args[0], ("error",)):
                hints = made.setdefault(error, (kind, []))[1]
                others = [*call.args[1:], *(keyword.value for keyword in call.keywords)]
                found = [hint for part in others for hint in _keys(part, ("hint", "content_hint"))]
                hints += [hint for hint in found if hint not in hints]
    for key in texts("en")["found"]:
        made["found", key] = ("SourceError" if key == "shadow" else "CheckpointError", [("try", key)])
    return made


def _keys(node: ast.AST, groups: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (group, key) of every text in an expression, those that it gets from `_GIVING_HINTS` included."""
    found: list[tuple[str, str]] = []
    for call in ast.walk(node):
        name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
        if "hint" in groups:
            found += [("hint", hint) for hint in _GIVING_HINTS.get(name, ())]
        if name != "text" or not isinstance(call, ast.Call) or len(call.args) < 2:
            continue
        group, key = call.args[:2]
        keys = (key.body, key.orelse) if isinstance(key, ast.IfExp) else (key,)
        if isinstance(group, ast.Constant) and group.value in groups:
            found += [(str(group.value), str(each.value)) for each in keys if isinstance(each, ast.Constant)]
    return found


def _tokens() -> str:
    """Return the colours that the panel and what a notebook keeps have in common, as CSS."""
    tokens = colors()
    lines = [f"  --nbl-{name}: {color};\n" for name, color in tokens["phases"].items()]
    lines += [f"  --nbl-part-{name}: {color};\n" for name, color in tokens["parts"].items()]
    head = "/* Written from src/nbloader/tokens.json by scripts/generate.py. */"
    return f"{head}\n.nbl-panel {{\n{''.join(lines)}}}\n"


def _wire() -> str:
    """Return the TypedDicts of `nbloader._views.wire` as TypeScript."""
    made = ["// What Python sends. Written from src/nbloader/_views/wire.py by scripts/generate.py.\n"]
    for name, kind in vars(wire).items():
        if typing.is_typeddict(kind):
            fields = [f"  {field}: {_typescript(hint)};\n" for field, hint in typing.get_type_hints(kind).items()]
            comment = " ".join((kind.__doc__ or "").split())
            made.append(f"/** {comment} */\nexport interface {name} {{\n{''.join(fields)}}}\n")
    return "\n".join(made)


def _typescript(hint: typing.Any) -> str:
    origin, parts = typing.get_origin(hint), [part for part in typing.get_args(hint) if part is not ...]
    if origin is typing.Literal:
        return " | ".join(f'"{part}"' for part in parts)
    if origin is list:
        made = _typescript(parts[0])
        return f"readonly ({made})[]" if "|" in made or made.startswith("readonly") else f"readonly {made}[]"
    if origin is tuple:
        return f"readonly [{', '.join(map(_typescript, parts))}]"
    if origin is dict:
        return f"Readonly<Record<string, {_typescript(parts[1])}>>"
    if parts:  # a union
        return " | ".join(map(_typescript, parts))
    return _NAMES.get(hint) or hint.__name__


_NAMES = {
    int: "number", float: "number", str: "string", bool: "boolean", type(None): "null", typing.Any: "unknown",
}  # fmt: skip


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
