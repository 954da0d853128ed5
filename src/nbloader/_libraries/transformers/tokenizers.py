"""Create the tokenizer or processor of a checkpoint."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbloader._checkpoint.headers import check_pointer
from nbloader._errors import DependencyError, LoadError, RemoteCodeError
from nbloader._libraries.output import records_to
from nbloader._libraries.transformers.errors import as_load_error
from nbloader._safety.files import open_regular
from nbloader._text.catalogue import text


def name_tokenizer(tokenizer: Any, repo_id: str) -> None:
    """Name a tokenizer, or a processor's tokenizer, as if it had been loaded by its repository id."""
    named = getattr(tokenizer, "tokenizer", tokenizer)
    if hasattr(named, "name_or_path"):
        named.name_or_path = repo_id


_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model",
    "source.spm", "tekken.json", "tokenizer_config.json", "vocab.model", "spm.model", "bpe.codes", "vocab.bpe",
)  # fmt: skip


def load_tokenizer(folder: Path, on_warning: Callable[[str], None], allows_code: bool) -> Any:
    """Return the checkpoint's processor if it has one, else its tokenizer, else None.

    Raises
    ------
    LoadError
        If there are files for one, but none can be created from them.
    """
    kinds = _tokenizer_kinds(folder)
    if not kinds:
        return None
    import transformers

    errors: list[Exception] = []
    said: list[str] = []

    def listen(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    for kind in kinds:
        try:
            with as_load_error(folder), records_to(listen):
                made = getattr(transformers, kind).from_pretrained(str(folder), trust_remote_code=allows_code)
        except RemoteCodeError:
            raise
        except LoadError as error:
            errors.append(error)
            continue
        if errors:
            on_warning(f"{kinds[0]}: {errors[0]}")
        return made
    for name in (*_TOKENIZER_FILES, *_PROCESSOR_FILES):
        if (folder / name).is_file():
            with open_regular(folder / name) as file:
                check_pointer(folder / name, file.read(64))
    # For a sentencepiece model, transformers then tries tiktoken's format, and its error is about tiktoken's packages.
    lacking = next(filter(None, (re.search(r"requires the (\w+) library", each) for each in said)), None)
    if lacking is not None and _has_sentencepiece(folder):
        first = lacking[0]
        hint = text("hint", "pip", package=lacking[1])
        raise DependencyError(text("error", "missing_package", folder=folder, first=first), hint)
    raise errors[0]


def _has_sentencepiece(folder: Path) -> bool:
    """Return whether there is a sentencepiece model: a protobuf message, while tiktoken's files are text."""
    paths = [folder / name for name in _TOKENIZER_FILES if name.endswith(".model")]
    return any(path.is_file() and path.read_bytes()[:1] == b"\n" for path in paths)


def _tokenizer_kinds(folder: Path) -> tuple[str, ...]:
    has_tokenizer = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    has_processor = any((folder / name).is_file() for name in _PROCESSOR_FILES)
    if has_processor and has_tokenizer:
        return ("AutoProcessor", "AutoTokenizer")
    if has_processor:
        return ("AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor")
    return ("AutoTokenizer",) if has_tokenizer else ()
