"""Patch transformers so that it imports a checkpoint's own code only from the approved copy."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbloader._errors import CheckpointError, DependencyError, RemoteCodeError
from nbloader._libraries import isolation
from nbloader._libraries.transformers.hooks import missing_hooks
from nbloader._text.catalogue import text

_code_copies: dict[int, tuple[str, Path]] = {}


@contextlib.contextmanager
def code_of(folder: Path, copy: Path) -> Iterator[None]:
    """Use `copy` for the code of the checkpoint in `folder`, for loads on this thread."""
    thread = threading.get_ident()
    _code_copies[thread] = os.path.realpath(folder), copy
    try:
        yield
    finally:
        del _code_copies[thread]


@contextlib.contextmanager
def only_code_that_was_read(folder: Path) -> Iterator[None]:
    """Patch transformers on this thread so that it imports code only from the approved copy.

    Raises
    ------
    DependencyError
        If there is a copy, but this version of transformers imports code in a way that cannot be patched.
    """
    import transformers

    own = _code_copies.get(threading.get_ident())
    if missing_hooks("code"):
        if own is not None:
            known = {"folder": folder, "version": transformers.__version__}
            raise DependencyError(text("error", "cannot_restrict_code", **known), text("hint", "code_unguarded"))
        yield
        return
    from transformers import dynamic_module_utils

    bring: Any = dynamic_module_utils.get_cached_module_file

    def bring_copy(place: Any, module_file: str, *args: Any, **kwargs: Any) -> Any:
        if own is None:
            raise RemoteCodeError(text("error", "remote_code_required", folder=folder))
        top, copy = own
        below = os.path.normpath(copy / os.path.relpath(os.path.realpath(place), top))
        if not os.path.isdir(place) or not os.path.isfile(os.path.join(below, module_file)):
            name = os.path.join(place, module_file)
            raise CheckpointError(
                text("error", "code_outside_checkpoint", folder=folder, name=name), text("hint", "own_code_only")
            )
        return bring(below, module_file, *args, **kwargs)

    with isolation.patched_on_this_thread(dynamic_module_utils, "get_cached_module_file", bring_copy):
        yield
