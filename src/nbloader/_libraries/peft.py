"""The one door to peft: attaching an adapter to a model that is in memory, and merging it.

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
    """Refuse an adapter where peft is not installed.

    Raises
    ------
    DependencyError
        Saying how to install it.
    """
    if find_spec("peft") is None:
        raise DependencyError(text("error", "needs_peft"), text("hint", "pip_peft"))


def import_peft() -> None:
    """Import peft, which takes seconds."""
    import peft  # noqa: F401


def attach(model: Any, folder: Path, name: str, on_warning: Callable[[str], None]) -> Any:
    """Return `model` with the adapter in `folder` attached: a ``PeftModel`` around it, in the model's own type.

    Raises
    ------
    CheckpointError
        Where the adapter has no place in the model, or lacks some of its tensors.
    """
    import peft

    place = str(folder.resolve())  # a relative one could be taken for the id of a repository
    own = {"low_cpu_mem_usage": True, "autocast_adapter_dtype": False}
    with _as_adapter_error(name), _isolated():
        config = peft.PeftConfig.from_pretrained(place)
        config.inference_mode = True
        made_by = peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, peft.PeftModel)
        made = made_by(model, config, "default", **own)
        # from_pretrained would not tell of missing keys: what is missing stays without memory, and computes nonsense.
        device = str(next(model.parameters()).device)
        loaded = made.load_adapter(place, "default", torch_device=device, **own)
    absent = [key for key, value in made.named_parameters() if value.is_meta and "lora_" in key]
    if loaded.missing_keys or absent:
        lacking = sorted({*loaded.missing_keys, *absent})
        raise CheckpointError(
            text("error", "adapter_missing_tensors", name=repr(name), count=len(lacking), names=", ".join(lacking[:2])),
            text("hint", "adapter_again"),
        )
    # Of a prompt peft takes the one tensor that it reports as unexpected.
    if loaded.unexpected_keys and not config.is_prompt_learning:
        keys = ", ".join(sorted(loaded.unexpected_keys)[:2])
        on_warning(f"{len(loaded.unexpected_keys)} tensors of the adapter are not used: {keys}")
    made.eval()
    return made


def merge(model: Any, name: str) -> Any:
    """Return the base model with the attached adapter merged into its weights."""
    trim_heap()  # merging takes several times a weight, on top of what was freed and kept
    from peft.tuners import tuners_utils

    # Its bar is not shown, and would leave a thread behind that watches bars.
    with _as_adapter_error(name), patched_on_this_thread(tuners_utils, "tqdm", lambda items, **settings: items):
        return model.merge_and_unload()


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Keep to this thread what peft changes for all while it makes an adapter's modules: their memory comes later."""
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
    """Turn what peft raises into words."""
    try:
        yield
    except (LoadError, LoadCancelled):
        raise
    except Exception as error:  # noqa: BLE001 - peft raises what it likes
        broken = import_failure(error)
        if broken is not None:
            raise broken from None
        reason = f"{type(error).__name__}: {' '.join(str(error).strip().splitlines()[:2])}"
        raise CheckpointError(
            text("error", "adapter_attach_failed", name=repr(name), reason=reason),
            text("hint", "knows_kind"),
            details=str(error),
        ) from None
