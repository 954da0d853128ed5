"""Convert exceptions of transformers into errors that explain what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nbloader._checkpoint.layout import ADAPTER_CONFIG
from nbloader._errors import (
    CheckpointError,
    DependencyError,
    LoadCancelled,
    LoadError,
    OptionError,
    RemoteCodeError,
    first_line,
)
from nbloader._libraries.imports import import_failure
from nbloader._libraries.transformers.code import only_code_that_was_read
from nbloader._text.catalogue import text


@contextlib.contextmanager
def as_load_error(folder: Path, account: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Convert an exception of transformers into a LoadError that says what failed, where, and what to do.

    `account` is transformers' loading info, such as missing, unexpected and mismatched keys.
    """
    try:
        with only_code_that_was_read(folder):
            yield
    except (LoadError, LoadCancelled):
        raise
    except Exception as error:  # noqa: BLE001 - the libraries can raise any exception
        raise load_error_of(error, folder, account) from None


def load_error_of(error: Exception, folder: Path, account: Mapping[str, Any] = MappingProxyType({})) -> LoadError:
    """Return the error that explains a library's exception to the user."""
    said, first = str(error).strip(), first_line(error) or type(error).__name__
    known = (
        import_failure(error) or _explain_kind(error, said, first, folder) or _explain_account(account, said, folder)
    )
    return known or CheckpointError(
        text("error", "transformers_failed", folder=folder, kind=type(error).__name__, first=first),
        text("hint", "whole_and_fitting"),
    )


def _explain_kind(error: Exception, said: str, first: str, folder: Path) -> LoadError | None:
    """Return the error that an exception's type and message point to; None if they are not known."""
    import torch
    from safetensors import SafetensorError

    package = re.search(r"pip install (?:-U |--upgrade )?['\"]?([\w.\[\]<>=,-]+)", said)
    if isinstance(error, ImportError) or package is not None:
        hint = text("hint", "with_pip") if package is None else text("hint", "pip", package=package[1].rstrip(".,"))
        polite = r"[.:]? (?:Please note|You can install|Install it|Please install|You need to install)"
        reason = re.split(polite, first)[0]
        return DependencyError(text("error", "missing_package", folder=folder, first=reason or first), hint)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return LoadError(text("error", "out_of_memory", folder=folder, first=first), text("hint", "free_or_smaller"))
    if isinstance(error, SafetensorError):
        return CheckpointError(
            text("error", "broken_safetensors", folder=folder, first=first), text("hint", "download_again")
        )
    if isinstance(error, ValueError) and "trust_remote_code=True" in said:
        return RemoteCodeError(text("error", "remote_code_required", folder=folder))
    if "attn_implementation" in said:
        return OptionError(text("error", "attention_unavailable", first=first), text("hint", "other_attention"))
    unknown = re.search(r"unexpected keyword argument '(\w+)'", said)
    if unknown:
        return OptionError(
            text("error", "unknown_argument", folder=folder, name=unknown[1], error=first), text("hint", "out_of_extra")
        )
    if "Weights only load failed" in said or "UnpicklingError" in type(error).__name__:
        return CheckpointError(
            text("error", "unsafe_pickle", folder=folder, error=_refused(said, first)),
            text("hint", "ask_safetensors"),
            details=said,
        )
    return None


def _explain_account(account: Mapping[str, Any], said: str, folder: Path) -> LoadError | None:
    """Return the error that transformers' loading info explains; None if it does not explain the exception."""
    empty = [key for key, stored, _ in account.get("mismatched_keys", ()) if tuple(stored) == (0,)]
    if empty:
        return CheckpointError(
            text("error", "zero3_not_gathered", folder=folder, count=len(empty), name=min(empty)), text("hint", "zero3")
        )
    if account.get("mismatched_keys") and ("ignore_mismatched_sizes" in said or "size mismatch" in said):
        known = {"folder": folder, "mismatch": _mismatch(account["mismatched_keys"])}
        if any("lora_" in key for key, *_ in account["mismatched_keys"]):
            return CheckpointError(
                text("error", "bundled_adapter_mismatch", **known),
                text("hint", "bundled_adapter_mismatch", config=ADAPTER_CONFIG),
                details=said,
            )
        return CheckpointError(
            text("error", "weights_shape_mismatch", **known), text("hint", "same_checkpoint"), details=said
        )
    if account.get("conversion_errors"):
        name, reason = min(account["conversion_errors"].items())
        last = str(reason).strip().splitlines()[-1]
        return CheckpointError(
            text("error", "weight_conversion_failed", folder=folder, name=name, reason=last),
            text("hint", "whole_and_fitting"),
            details="\n".join(f"{key}: {each}" for key, each in account["conversion_errors"].items()),
        )
    return None


def _refused(said: str, first: str) -> str:
    named = (line.strip() for line in said.splitlines() if "GLOBAL" in line or "nsupported" in line)
    return next(named, first)


def _mismatch(keys: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> str:
    (key, stored, wanted), *others = sorted(keys)
    shapes = {"stored": ", ".join(map(str, stored)), "wanted": ", ".join(map(str, wanted))}
    return text("reason", "mismatches" if others else "mismatch", key=key, **shapes, more=len(others))
