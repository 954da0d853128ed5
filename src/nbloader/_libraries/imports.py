"""Find the library that is installed but fails to import, and say how to repair it."""

from __future__ import annotations

import importlib.metadata
import traceback
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from nbloader._errors import DependencyError, first_line
from nbloader._text.catalogue import text

_NEEDED = {"torch", "transformers", "accelerate", "tokenizers", "safetensors", "huggingface_hub"}
_NO_LIBRARIES = {"nbloader", "__main__", "transformers_modules"}  # the last one is the checkpoints' own code
_BUILT_FOR_TORCH = {"torchvision", "torchaudio"}
"""Packages whose builds each work with only one version of torch."""


def import_failure(error: BaseException) -> DependencyError | None:
    """Return the error to report if `error` was raised during the import of a library, else None.

    The report names the library whose own module was running, not the one that imported it.
    """
    found = ((name, cause) for cause in _chain(error) for name in [_imported(cause)] if name is not None)
    name, cause = next(found, ("", error))
    if not name:
        return None
    known = {"name": name, "version": _version(name), "error": first_line(cause) or type(cause).__name__}
    hint = text("hint", "reinstall", name=name)
    if name in _BUILT_FOR_TORCH:
        hint = text("hint", "match_torch", name=name)
    elif name in _NEEDED:
        hint = text("hint", "reinstall_needed", name=name)
    return DependencyError(text("error", "import_failed", **known), hint)


def check_packages(where: str, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose config needs a package that is not installed, before weights are downloaded.

    Raises
    ------
    DependencyError
        If the package is missing; the hint says how to install it.
    """
    is_timm = config.get("model_type") == "timm_wrapper" or ("architecture" in config and "pretrained_cfg" in config)
    if is_timm and find_spec("timm") is None:
        raise DependencyError(text("error", "needs_timm", where=where), text("hint", "pip", package="timm"))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, starting with the root cause."""
    before = error.__cause__ or error.__context__
    if before is not None and before is not error:
        yield from _chain(before)
    yield error


def _imported(error: BaseException) -> str | None:
    """Return the package whose module body raised an exception; None if no library's module body was running."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [frame.f_globals.get("__name__") for frame in frames if frame.f_code.co_name == "<module>"]
    names = [module.partition(".")[0] for module in modules if module]
    others = [name for name in names if name not in _NO_LIBRARIES]
    return others[-1] if others else None


def _version(name: str) -> str:
    distributions = importlib.metadata.packages_distributions().get(name, [])
    return importlib.metadata.version(distributions[0]) if distributions else "?"
