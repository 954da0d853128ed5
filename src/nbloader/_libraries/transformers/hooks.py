"""What is used of transformers that is not documented for it, and what of that is there."""

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
"""What is used of transformers that is not documented for it, by what it serves."""


def missing_hooks(*purposes: str) -> list[str]:
    """Return what this transformers lacks of what is used for some purposes, or all; a load goes on without it."""
    return [name for purpose in purposes or _HOOKS for name in _HOOKS[purpose] if not _has(name)]


def _has(name: str) -> bool:
    module, _, rest = name.partition(":")
    found: Any = importlib.import_module(f"transformers.{module}")
    for part in rest.split("."):
        found = getattr(found, part, None)
    return found is not None
