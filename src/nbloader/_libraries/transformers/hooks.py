"""The undocumented functions of transformers that nbloader uses, and a check that they exist."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

_HOOKS: Mapping[str, tuple[str, ...]] = {
    "progress": ("utils.logging:set_tqdm_hook",),
    "waiting": ("modeling_utils:safe_open", "modeling_utils:load_state_dict"),
    "isolation": (
        "modeling_utils:local_torch_dtype",
        "modeling_utils:PreTrainedModel.get_init_context",
        "modeling_utils:PreTrainedModel.initialize_weights",
        "modeling_utils:PreTrainedModel.tie_weights",
        "initialization:TORCH_MODULES_TO_PATCH",
        "initialization:TORCH_INIT_FUNCTIONS",
        "initialization:guard_torch_init_functions",
    ),
    "account": ("modeling_utils:log_state_dict_report",),
    "code": ("dynamic_module_utils:get_cached_module_file",),
}
"""Undocumented functions and tables of transformers that nbloader uses, by purpose."""


def missing_hooks(*purposes: str) -> list[str]:
    """Return the hooks for these purposes, or for all, that the installed transformers lacks.

    A load works without them, unless it needs the checkpoint's own code.
    """
    return [name for purpose in purposes or _HOOKS for name in _HOOKS[purpose] if not _has(name)]


def _has(name: str) -> bool:
    module, _, rest = name.partition(":")
    found: Any = importlib.import_module(f"transformers.{module}")
    for part in rest.split("."):
        found = getattr(found, part, None)
    return found is not None
