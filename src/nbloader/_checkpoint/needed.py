"""The files of a repository that a load reads in addition to the weights."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from nbloader._options.options import LoadOptions

_READ = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".codes", ".bpe", ".vocab", ".tokenizer")
"""File extensions that configs, tokenizers and processors read."""
_ALSO_READ = ("spk_dict.pt",)  # by a model's own from_pretrained
_NOT_READ = (".index.json", "trainer_state.json")
_OF_TOKENIZERS = ("tokeniz", "vocab", "merges", "token", "chat_template", "processor")
_TEMPLATES = "additional_chat_templates"
_TOKENIZER = "tokenizer_config.json"


def support_files(names: Collection[str], options: LoadOptions) -> list[str]:
    """Return the files that a load reads in addition to the weights: configs, tokenizer, processor, templates."""
    # Some processors keep a second tokenizer in a subfolder.
    folders = {".", _TEMPLATES} | {str(PurePosixPath(name).parent) for name in names if name.endswith(_TOKENIZER)}
    return sorted(
        name
        for name in names
        if str(PurePosixPath(name).parent) in folders
        and len(PurePosixPath(name).parts) <= 2
        and (name.lower().endswith(_READ) or name in _ALSO_READ)
        and not name.lower().endswith(_NOT_READ)
        and (options.tokenizer is not False or _is_of_model(name))
    )


def _is_of_model(name: str) -> bool:
    return name.endswith(".json") and not any(part in name for part in _OF_TOKENIZERS)
