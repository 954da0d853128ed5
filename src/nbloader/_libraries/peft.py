"""The interface to peft: attach an adapter to a model in memory, and merge it.

Importing this module does not import peft; its functions do, on the thread that calls them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nbloader._errors import CheckpointError, DependencyError, LoadCancelled, LoadError
from nbloader._libraries.imports import import_failure
from nbloader._libraries.isolation import patched_on_this_thread
from nbloader._system.memory import trim_heap
from nbloader._text.catalogue import text


def check_peft() -> None:
    """Refuse an adapter if peft is not installed.

    Raises
    ------
    DependencyError
        If peft is missing; the hint says how to install it.
    """
    if find_spec("peft") is None:
        raise DependencyError(text("error", "needs_peft"), text("hint", "pip_peft"))


def import_peft() -> None:
    """Import peft, which takes seconds."""
    import peft  # noqa: F401


def attach(model: Any, folder: Path, name: str, on_warning: Callable[[str], None]) -> Any:
    """Return `model` with the adapter in `folder` attached, as a ``PeftModel``.

    The adapter's weights get the model's own type.

    Raises
    ------
    CheckpointError
        If the adapter does not fit the model, or lacks some of its tensors.
    """
    import peft

    place = str(folder.resolve())  # peft could take a relative path for a repository id
    own = {"low_cpu_mem_usage": True, "autocast_adapter_dtype": False}
    with _as_adapter_error(name), _isolated():
        config = peft.PeftConfig.from_pretrained(place)
        config.inference_mode = True
        made_by = peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, peft.PeftModel)
        made = made_by(model, config, "default", **own)
        # from_pretrained does not report missing keys: those parameters would stay on the meta device and be unusable.
        device = str(next(model.parameters()).device)
        loaded = made.load_adapter(place, "default", torch_device=device, **own)
    absent = [key for key, value in made.named_parameters() if value.is_meta and "lora_" in key]
    if loaded.missing_keys or absent:
        lacking = sorted({*loaded.missing_keys, *absent})
        raise CheckpointError(
            text("error", "adapter_missing_tensors", name=repr(name), count=len(lacking), names=", ".join(lacking[:2])),
            text("hint", "adapter_again"),
        )
    # For prompt learning, peft uses the one tensor that it reports as unexpected.
    if loaded.unexpected_keys and not config.is_prompt_learning:
        keys = ", ".join(sorted(loaded.unexpected_keys)[:2])
        on_warning(f"{len(loaded.unexpected_keys)} tensors of the adapter are not used: {keys}")
    made.eval()
    return made


def merge(model: Any, name: str) -> Any:
    """Return the base model with the attached adapter merged into its weights."""
    trim_heap()  # merging needs several times a weight's size, so return freed memory first
    from peft.tuners import tuners_utils

    # The progress bar is not shown, and tqdm would leave its monitor thread running.
    with _as_adapter_error(name), patched_on_this_thread(tuners_utils, "tqdm", lambda items, **settings: items):
        return model.merge_and_unload()


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Limit to this thread peft's patch that makes an adapter's modules empty until their weights are loaded."""
    import torch
    from peft.utils import integrations

    register = torch.nn.Module.register_parameter

    @contextlib.contextmanager
    def init_here(device: Any, include_buffers: bool | None = None) -> Iterator[None]:
        def register_empty(module: Any, name: str, parameter: Any) -> None:
            register(module, name, parameter)
            if parameter is not None and not getattr(integrations._init_on_device, "_skip", False):
                empty = parameter.to(device)
                kind, settings = type(parameter), {**vars(parameter), "requires_grad": parameter.requires_grad}
                module._parameters[name] = kind(empty, **settings)

        with patched_on_this_thread(torch.nn.Module, "register_parameter", register_empty):
            yield

    with patched_on_this_thread(integrations, "_init_on_device", init_here):
        yield


@contextlib.contextmanager
def _as_adapter_error(name: str) -> Iterator[None]:
    """Convert an exception of peft into an error of nbloader."""
    try:
        yield
    except (LoadError, LoadCancelled):
        raise
    except Exception as error:  # noqa: BLE001 - peft can raise any exception
        broken = import_failure(error)
        if broken is not None:
            raise broken from None
        reason = f"{type(error).__name__}: {' '.join(str(error).strip().splitlines()[:2])}"
        raise CheckpointError(
            text("error", "adapter_attach_failed", name=repr(name), reason=reason),
            text("hint", "knows_kind"),
            details=str(error),
        ) from None
