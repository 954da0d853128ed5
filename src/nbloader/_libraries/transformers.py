"""The one door to transformers: its progress hook, its process-wide globals, its auto classes.

Importing this module imports neither transformers nor torch; its functions do, on the thread that calls them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from nbloader._checkpoint.checkpoint import ADAPTER_CONFIG, check_pointer, is_packed
from nbloader._errors import (
    CheckpointError,
    DependencyError,
    LoadCancelled,
    LoadError,
    OptionError,
    RemoteCodeError,
    did_you_mean,
    first_line,
)
from nbloader._libraries import isolation
from nbloader._libraries.imports import import_failure
from nbloader._libraries.output import records_to
from nbloader._safety.files import open_regular
from nbloader._system.page_cache import map_pages
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions

# Tokenizers warns at every fork after its threads have run; it reads this when it first works, so before any import.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_WEIGHTS_BAR = "Loading weights"


def import_libraries() -> str:
    """Import torch and transformers, and return their versions in words."""
    import torch
    import transformers
    import transformers.models.auto.modeling_auto

    _tie_weights()
    return f"transformers {transformers.__version__}, torch {torch.__version__}"


@dataclass(frozen=True)
class PlacedItem:
    """One step of transformers' placing: the tensors it took from the files, and their bytes in the model.

    `bytes` is None where the step does not tell (a tensor that was made inside the step).
    """

    sources: tuple[str, ...]
    bytes: int | None


@dataclass(frozen=True)
class Watcher:
    """What one loading thread wants to know while transformers works for it.

    Parameters
    ----------
    on_open
        Called once with the names of all tensors that will be placed.
    on_placed
        Called after each step.
    on_warning
        Called with the text of what transformers would have printed.
    check_cancelled
        Called before each step; its exception ends the load.
    gate
        What stands between transformers and the weight files; None where they can be used as they are.
    on_stranger
        Called with the name of another thread that loads with transformers itself meanwhile, on that thread.
    step
        Gives the context of a step, from the names of the tensors that it takes and what brings those in the
        background.
    spending
        Gives the context of work that is known by one of `nbloader._progress.events.PARTS`.
    """

    on_open: Callable[[Sequence[str]], None]
    on_placed: Callable[[PlacedItem], None]
    on_warning: Callable[[str], None]
    check_cancelled: Callable[[], None]
    gate: Gate | None = None
    on_stranger: Callable[[str], None] = lambda name: None
    step: Callable[[Sequence[str], Sequence[Future[Any]]], AbstractContextManager[None]] = lambda keys, tensors: (
        contextlib.nullcontext()
    )
    spending: Callable[[str], AbstractContextManager[None]] = lambda part: contextlib.nullcontext()


class _Strangers:
    """Other threads that load with transformers themselves; each is told once."""

    def __init__(self, on_first: Callable[[str], None]) -> None:
        self._on_first = on_first
        self.seen: set[str] = set()

    def note(self) -> None:
        """Note the thread that calls this."""
        name = threading.current_thread().name
        if name not in self.seen:
            self.seen.add(name)
            self._on_first(name)


class Gate(Protocol):
    """Weight files that are still being read."""

    def wait_for(self, path: str, key: str) -> None:
        """Return once the elements of a tensor can be used; called on any thread."""

    def path_of(self, path: str) -> str:
        """Return the path to open in a weight file's place."""


_watchers: dict[int, Watcher] = {}


@contextlib.contextmanager
def watched(watcher: Watcher, on_other: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Follow what transformers does on this thread; other threads' bars and warnings stay as they are.

    `on_other` is called on another thread that places weights meanwhile.
    """
    from transformers.utils import logging as transformers_logging

    thread = threading.get_ident()
    set_hook = getattr(transformers_logging, "set_tqdm_hook", lambda hook: hook)
    previous = set_hook(None)

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        watching = _watchers.get(threading.get_ident())
        if watching is not None:
            return _bar(watching, args, kwargs)
        if kwargs.get("desc") == _WEIGHTS_BAR:
            on_other()
        return factory(*args, **kwargs) if previous is None else previous(factory, args, kwargs)

    def keep(record: logging.LogRecord) -> bool:
        is_theirs = record.name.partition(".")[0] == "transformers"
        if is_theirs:
            watcher.on_warning(record.getMessage())
        return is_theirs

    set_hook(hook)
    _watchers[thread] = watcher
    try:
        with records_to(keep):
            yield
    finally:
        del _watchers[thread]
        replaced = set_hook(previous)
        if replaced is not hook:  # somebody set a hook of their own meanwhile
            set_hook(replaced)


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


def can_wait() -> bool:
    """Tell whether this transformers opens weight files through the functions that `waiting` stands in for."""
    return not missing_hooks("waiting")


@contextlib.contextmanager
def waiting(watcher: Watcher) -> Iterator[None]:
    """Have transformers wait for each tensor that this thread loads, until it has been read.

    It opens every file before it places the first tensor, and gets handles here that wait when elements are asked
    for. Other threads get what they always get.
    """
    gate = watcher.gate
    if not can_wait():
        yield
        return
    import torch
    from transformers import modeling_utils as module

    safe_open: Any = module.safe_open
    load_state_dict: Any = module.load_state_dict

    def open_waiting(filename: Any, *args: Any, **kwargs: Any) -> Any:
        assert gate is not None
        name = os.fspath(filename)
        return _WaitingFile(safe_open(gate.path_of(name), *args, **kwargs), name, gate)

    def load_waiting(checkpoint_file: Any, *args: Any, **kwargs: Any) -> Any:
        name = os.fspath(checkpoint_file)
        if name.endswith(".safetensors"):
            return load_state_dict(checkpoint_file, *args, **kwargs)
        path = checkpoint_file if gate is None else gate.path_of(name)
        with watcher.spending("unpickle"):
            if is_packed(path):  # of which torch, and so transformers, would map the compressed bytes
                tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
            else:
                tensors = load_state_dict(path, *args, **kwargs)
        if gate is None:
            return tensors
        return {key: _WaitingTensor(tensor, name, key, gate) for key, tensor in tensors.items()}

    with contextlib.ExitStack() as stack:
        if gate is not None:
            stack.enter_context(isolation.here_only(module, "safe_open", open_waiting))
        stack.enter_context(isolation.here_only(module, "load_state_dict", load_waiting))
        yield


_LOOK = 0.005  # seconds between two looks at whether another thread has initialized its model


@contextlib.contextmanager
def isolated(on_other: Callable[[], None], check_cancelled: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep to this thread what transformers changes for the whole process while it builds a model.

    Of its contexts those that are known are replaced, in their places; others are left as they are. `on_other` is
    called on another thread that builds a model meanwhile, which changes all of that for everybody.
    """
    from transformers import PreTrainedModel, modeling_utils

    contexts = vars(PreTrainedModel).get("get_init_context")
    initialize = vars(PreTrainedModel).get("initialize_weights")
    local_dtype = getattr(modeling_utils, "local_torch_dtype", None)
    if missing_hooks("isolation"):
        yield
        return
    assert contexts is not None
    assert initialize is not None
    assert local_dtype is not None
    bare = inspect.unwrap(initialize)

    def get_init_context(cls: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return [_kept_here(context) for context in contexts.__func__(cls, *args, **kwargs)]

    def get_their_context(cls: Any, *args: Any, **kwargs: Any) -> list[Any]:
        on_other()
        return list(contexts.__func__(cls, *args, **kwargs))

    def guarded(model: Any) -> None:
        import torch

        with torch.no_grad(), _guards():
            bare(model)

    def initialize_weights(model: Any) -> None:
        while _are_guarded() and _runs_elsewhere(bare):
            check_cancelled()
            time.sleep(_LOOK)
        guarded(model)
        if not any("tie_weights" in vars(kind) for kind in type(model).__mro__ if kind is not PreTrainedModel):
            # Another thread may have replaced it for a while, and this model is tied next.
            vars(model)["tie_weights"] = functools.partial(_tie_weights(), model)

    def local_torch_dtype(dtype: Any, *names: Any) -> Any:
        return isolation.default_dtype(dtype) if dtype.is_floating_point else local_dtype(dtype, *names)

    with (
        # Parts of a model that has several are built from their configs, with the type as their own default.
        isolation.here_only(modeling_utils, "local_torch_dtype", local_torch_dtype),
        isolation.here_only(PreTrainedModel, "get_init_context", get_init_context, get_their_context),
        # Other threads', too: what transformers puts back for all when it is through takes a stand-in away.
        isolation.here_only(PreTrainedModel, "initialize_weights", initialize_weights, guarded),
    ):
        yield


def _guards() -> Any:
    """Return a context in which this thread's initializers leave loaded weights alone.

    These are transformers' own functions, by its own tables; it puts them there for all threads.
    """
    from transformers import initialization

    names = initialization.TORCH_INIT_FUNCTIONS
    guards = {name: getattr(initialization, name) for name in names}
    return isolation.replaced_here(
        [(module, name, guards[name]) for module in _guarded_modules() for name in names if hasattr(module, name)],
        lambda found: next((names[name] for name, guard in guards.items() if found is guard), found),
    )


def _guarded_modules() -> list[Any]:
    from transformers import initialization

    return [sys.modules[name] for name in initialization.TORCH_MODULES_TO_PATCH if name in sys.modules]


def _are_guarded() -> bool:
    """Tell whether transformers' initializers are there for all threads: some thread initializes a model."""
    from transformers import initialization

    return any(
        getattr(module, name, None) is getattr(initialization, name)
        for module in _guarded_modules()
        for name in initialization.TORCH_INIT_FUNCTIONS
    )


def _runs_elsewhere(function: Any) -> bool:
    """Tell whether another thread is inside of a function, or in what transformers does just before and after it."""
    from transformers import initialization

    codes = {function.__code__, inspect.unwrap(initialization.guard_torch_init_functions).__code__}
    for thread, frame in sys._current_frames().items():
        inner: FrameType | None = None if thread == threading.get_ident() else frame
        while inner is not None:
            if inner.f_code in codes:
                return True
            inner = inner.f_back
    return False


@functools.cache
def _tie_weights() -> Any:
    """Return the method of PreTrainedModel, as it was when this was first asked."""
    from transformers import PreTrainedModel

    return vars(PreTrainedModel)["tie_weights"]


def _kept_here(context: Any) -> Any:
    """Return what does for this thread what a context of transformers does for all; an unknown one as it is."""
    from transformers import PreTrainedModel

    name = getattr(getattr(context, "func", None), "__name__", "")
    if name != "no_tie_weights":
        return isolation.linspace_on_cpu() if name == "meta_device_safe_creation_ops" else context
    theirs = inspect.unwrap(context.func).__code__.co_consts

    def lasting(found: Any) -> Any:
        return _tie_weights() if getattr(found, "__code__", None) in theirs else found

    return isolation.here_only(PreTrainedModel, "tie_weights", lambda *args, **kwargs: None, lasting=lasting)


class _WaitingTensor:
    """A tensor, or a slice of safetensors, whose elements are waited for when they are asked for."""

    def __init__(self, tensor: Any, path: str, key: str, gate: Gate) -> None:
        self._tensor, self._path, self._key, self._gate = tensor, path, key, gate

    def __getitem__(self, index: Any) -> Any:
        self._gate.wait_for(self._path, self._key)
        tensor = self._tensor[index]
        if not map_pages(tensor.data_ptr(), tensor.nbytes):
            raise CheckpointError(text("error", "shortened", path=self._path), text("hint", "again"))
        return tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)


class _WaitingFile:
    """An open safetensors file, whose slices are waited for when their elements are asked for."""

    def __init__(self, file: Any, path: str, gate: Gate) -> None:
        self._file, self._path, self._gate = file, path, gate

    def __enter__(self) -> _WaitingFile:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def get_slice(self, name: str) -> _WaitingTensor:
        return _WaitingTensor(self._file.get_slice(name), self._path, name, self._gate)

    def get_tensor(self, name: str) -> Any:
        self._gate.wait_for(self._path, name)
        return self._file.get_tensor(name)

    def __getattr__(self, name: str) -> Any:
        if name not in _OF_HEADERS:
            # Another way to the elements than those above: it has all of the file.
            self._gate.wait_for(self._path, "")
        return getattr(self._file, name)


_OF_HEADERS = {"keys", "metadata", "offset_keys"}


class _SilentBar:
    """What transformers needs of a tqdm, drawing nothing.

    A disabled tqdm would do, but starts a monitor thread that keeps its class, and all that it refers to, for good.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __enter__(self) -> _SilentBar:
        return self

    def __exit__(self, *error: object) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _bar(watcher: Watcher, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _SilentBar:
    items = args[0] if args else kwargs.get("iterable") or ()
    return _SilentBar(_watch_items(watcher, items) if kwargs.get("desc") == _WEIGHTS_BAR else items)


def _watch_items(watcher: Watcher, items: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    steps = list(items)
    watcher.on_open([key for _, mapping in steps for key in _sources(mapping)])
    for step in steps:
        watcher.check_cancelled()
        sources = _sources(step[1])
        # Held until the step is over, when they are the model's: the step itself forgets them first.
        tensors = [tensor for group in getattr(step[1], "collected_tensors", {}).values() for tensor in group]
        with watcher.step(sources, [tensor for tensor in tensors if isinstance(tensor, Future)]):
            yield step
        watcher.on_placed(PlacedItem(sources, _bytes_of(tensors)))


def _sources(mapping: Any) -> tuple[str, ...]:
    return tuple(sorted({key for keys in getattr(mapping, "layer_targets", {}).values() for key in keys}))


def _bytes_of(tensors: Iterable[Any]) -> int | None:
    total = 0
    for tensor in tensors:
        ready = tensor.result() if isinstance(tensor, Future) else tensor
        if not hasattr(ready, "nbytes"):
            return None
        total += ready.nbytes
    return total


def check_architecture(
    folder: Path, config: Mapping[str, Any], auto_class: str | type | None, allows_code: bool
) -> None:
    """Refuse a checkpoint whose architecture the auto classes of this process do not know.

    A model class that is named knows its own config.

    Raises
    ------
    RemoteCodeError
        Where the checkpoint brings the architecture's code itself, and that is not allowed to run.
    CheckpointError
        Where the model type is missing or unknown.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if auto_class is not None and _is_model_class(_named_class(auto_class)):
        return
    model_type = config.get("model_type")
    is_known = isinstance(model_type, str) and model_type in CONFIG_MAPPING
    if is_known and not allows_code:
        return
    known = {"config": folder / "config.json", "type": repr(model_type)}
    elsewhere = [name for name in _code_names(config) if "--" in name]
    if elsewhere:
        raise CheckpointError(
            text("error", "code_elsewhere", **known, repository=elsewhere[0].partition("--")[0]),
            text("hint", "own_code_only"),
        )
    if is_known or (_code_names(config) and allows_code):
        return
    if _code_names(config):
        raise RemoteCodeError(text("error", "code_inside", **known))
    try:
        transformers.AutoConfig.from_pretrained(str(folder))
    except ImportError as error:  # such as that of timm, whose configs name no type
        raise explain(error, folder) from None
    except Exception:  # noqa: BLE001, S110 - told below
        pass
    else:
        return
    if model_type is None:
        raise CheckpointError(
            text("error", "no_model_type", config=folder / "config.json"), text("hint", "add_model_type")
        )
    raise CheckpointError(
        text("error", "unknown_model_type", **known, version=transformers.__version__),
        text("hint", "newer_transformers", guess=did_you_mean(str(model_type), CONFIG_MAPPING)),
    )


def check_kernels(folder: Path, config: Mapping[str, Any]) -> None:
    """Hold back a checkpoint whose config chooses code of another repository to compute attention with.

    transformers would download and run it, with the package ``kernels``, without that anybody has asked for it.

    Raises
    ------
    CheckpointError
        Where the config names such a repository.
    """
    named = [name for name in _attention_names(config) if "/" in name]
    if named:
        raise CheckpointError(
            text("error", "attention_elsewhere", config=folder / "config.json", name=named[0]),
            text("hint", "choose_attention", name=repr(named[0])),
        )


def _attention_names(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield every attention that a config and its parts choose."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _attention_names(value)
        if "attn_implementation" in name:
            values = value.values() if isinstance(value, Mapping) else [value]
            yield from (chosen for chosen in values if isinstance(chosen, str))


def _code_names(config: Mapping[str, Any]) -> list[str]:
    """Return the classes that a config names in code of the checkpoint's own: "modeling_x.Class"."""
    named = config.get("auto_map")
    values = named.values() if isinstance(named, Mapping) else ()
    return [name for value in values for name in (value if isinstance(value, list) else [value]) if name is not None]


def load_config(
    folder: Path, extra: Mapping[str, Any], auto_class: str | type | None, allows_code: bool
) -> tuple[Any, dict[str, Any]]:
    """Return the checkpoint's config, and what of `extra` is not the config's.

    It is of the class that a named model class has for it, else of the one that ``AutoConfig`` chooses.
    """
    from transformers import AutoConfig

    named: Any = None if auto_class is None else _named_class(auto_class)
    with _told(folder):
        if _is_model_class(named) and named.config_class is not None:
            config, rest = named.config_class.from_pretrained(str(folder), return_unused_kwargs=True, **extra)
        else:
            config, rest = AutoConfig.from_pretrained(
                str(folder), trust_remote_code=allows_code, return_unused_kwargs=True, **extra
            )
    return config, {name: value for name, value in rest.items() if name in extra}


def find_model_class(config: Any, auto_class: str | type | None, allows_code: bool) -> tuple[Any, Any]:
    """Return the class that loads the model, and the config to give it.

    Where the checkpoint brings code that is allowed to run, it is the auto class that the config names for that code.
    Without `auto_class` it is the class that the config names as its architecture, which is what the matching auto
    class would choose. For a config that names none, or one that transformers does not have, it is an auto class that
    fits the model type: the one for sequence to sequence, for causal LM, or the bare ``AutoModel``.

    Raises
    ------
    OptionError
        For an `auto_class` that transformers does not have.
    """
    import transformers

    if auto_class is not None:
        return _named_class(auto_class), config
    named = config.architectures if isinstance(config.architectures, (list, tuple)) else ()
    own = {auto: name for auto, name in (getattr(config, "auto_map", None) or {}).items() if "Model" in auto}
    if allows_code and own:
        built = (auto for auto, name in own.items() if str(name).rpartition(".")[2] in named)
        return getattr(transformers, next(built, min(own))), config
    for name in named:
        found: Any = getattr(transformers, str(name), None) or _registered_class(str(name), config)
        if _is_model_class(found):
            text = config.sub_configs.get("text_config")
            # A text-only class of a model with several parts wants its own part of the config.
            is_text_only = text is not None and found.config_class is text and not isinstance(config, text)
            return found, config.get_text_config() if is_text_only else config
    return _guessed_class(config), config


def _registered_class(name: str, config: Any) -> Any:
    """Return the class of this name that somebody registered with an auto class for such a config; None if none is."""
    import transformers

    autos = (getattr(transformers, auto) for auto in dir(transformers) if auto.startswith("AutoModel"))
    found = (auto._model_mapping[type(config)] for auto in autos if _knows(auto, config))
    return next((kind for kind in found if getattr(kind, "__name__", "") == name), None)


def _knows(auto: Any, config: Any) -> bool:
    """Tell whether an auto class has a class for such a config."""
    return type(config) in getattr(auto, "_model_mapping", ())


def _guessed_class(config: Any) -> Any:
    import transformers as library

    if config.is_encoder_decoder:
        has_class = _knows(library.AutoModelForSeq2SeqLM, config)
        return library.AutoModelForSeq2SeqLM if has_class else library.AutoModel
    is_encoder = _knows(library.AutoModelForMaskedLM, config) and not getattr(config, "is_decoder", False)
    has_class = _knows(library.AutoModelForCausalLM, config) and not is_encoder
    return library.AutoModelForCausalLM if has_class else library.AutoModel


def ambient_device() -> str | None:
    """Return the device that this thread makes tensors on without naming one, if it is another than the CPU.

    ``torch.set_default_device`` and ``with torch.device(...)`` hold for one thread.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_default_device"):  # not imported, or not yet to its end
        return None
    device = str(torch.empty(0).device)  # torch 2.7's get_default_device() does not see the ``with``
    return None if device == "cpu" else device


def check_device(device: str | None) -> None:
    """Refuse a device that this torch, or this machine, does not have.

    Raises
    ------
    OptionError
        Naming the device and why it cannot be used.
    """
    import torch

    kind, _, index = (device or "cpu").partition(":")
    backend: Any = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}.get(kind)
    if backend is None:
        return
    if not backend.is_available():
        raise OptionError(
            text("error", "device_unusable", device=repr(device), version=torch.__version__, kind=kind),
            text("hint", "leave_device"),
        )
    count = backend.device_count()
    if index and int(index) >= count:
        raise OptionError(
            text("error", "no_such_device", device=repr(device), count=count, kind=kind),
            text("hint", "use_first", kind=kind),
        )


def _is_model_class(found: object) -> bool:
    from transformers import PreTrainedModel

    return isinstance(found, type) and issubclass(found, PreTrainedModel)


def _named_class(auto_class: str | type) -> Any:
    import transformers

    found = getattr(transformers, auto_class, None) if isinstance(auto_class, str) else auto_class
    if not hasattr(found, "from_pretrained"):
        known = [name for name in dir(transformers) if name.startswith("AutoModel")]
        raise OptionError(
            text("error", "no_auto_class", auto_class=repr(auto_class)),
            did_you_mean(auto_class, known) if isinstance(auto_class, str) else text("hint", "auto_class"),
        )
    return found


def model_arguments(options: LoadOptions, allows_code: bool) -> dict[str, Any]:
    """Return what ``from_pretrained`` is to be told of the options: what is not chosen is left to it."""
    placement = options.placement
    limits = options.max_memory
    if isinstance(limits, int):
        import torch

        # Older torch counts only where there is a driver.
        count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        limits = {**dict.fromkeys(range(count), limits), "cpu": limits}
    chosen = {
        "device_map": dict(placement) if isinstance(placement, Mapping) else placement,
        "max_memory": dict(limits) if isinstance(limits, Mapping) else None,
        "offload_folder": options.offload_folder,
        "attn_implementation": options.attn_implementation,
        "variant": options.variant,
        "use_safetensors": options.use_safetensors,
        "trust_remote_code": allows_code,
        "quantization_config": _quantization_config(options),
    }
    return {"dtype": options.dtype, **{name: value for name, value in chosen.items() if value is not None}}


def _quantization_config(options: LoadOptions) -> Any:
    """Return the config that transformers takes for a quantization by name; another one as it is."""
    import torch
    import transformers

    name = options.quantization
    if name in ("8bit", "4bit"):
        import bitsandbytes  # noqa: F401 - here, so that it is no part of what placing takes
    if name == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    if name == "4bit":
        compute = torch.bfloat16 if options.dtype == "auto" else getattr(torch, options.dtype)
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
        )
    if name in ("int8", "int4"):
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

        return transformers.TorchAoConfig(Int8WeightOnlyConfig(version=2) if name == "int8" else Int4WeightOnlyConfig())
    return dict(name) if isinstance(name, Mapping) else name


def load_model(
    folder: Path,
    model_class: Any,
    config: Any,
    arguments: Mapping[str, Any],
    watcher: Watcher,
    shards: Sequence[str] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Return the model, placed, and transformers' account of it (missing, unexpected, mismatched keys).

    `arguments` are those of ``from_pretrained`` beside the ones that are ours; `shards` are the paths of those that no
    index names.

    Raises
    ------
    LoadError
        Whatever transformers could not do, in words.
    """
    warnings: list[str] = []
    strangers = _Strangers(watcher.on_stranger)
    noting = replace(watcher, on_warning=warnings.append)
    info: dict[str, Any] = {}
    with (
        _told(folder, info),
        watched(noting, strangers.note),
        waiting(watcher),
        isolated(strangers.note, watcher.check_cancelled),
        _accounting(info),
        _shards_given(shards),
        _interruptible(watcher.check_cancelled),
    ):
        model = model_class.from_pretrained(str(folder), config=config, **arguments)
    vars(model).pop("tie_weights", None)
    _check_whole(model, folder, strangers.seen)
    for warning in warnings:
        # What the report says in a table, the caller gets as data.
        if "LOAD REPORT" not in warning:
            watcher.on_warning(warning)
    return model, info


@contextlib.contextmanager
def _interruptible(check_cancelled: Callable[[], None]) -> Iterator[None]:
    """Have a model that this thread builds look, at each of its modules, whether to go on."""
    from torch.nn import Module

    begin: Any = vars(Module)["__init__"]

    def init(module: Any, *args: Any, **kwargs: Any) -> None:
        check_cancelled()
        begin(module, *args, **kwargs)

    with isolation.here_only(Module, "__init__", init):
        yield


@contextlib.contextmanager
def _shards_given(shards: Sequence[str] | None) -> Iterator[None]:
    """Have transformers load these files instead of looking for an index; None to have it look.

    Raises
    ------
    CheckpointError
        Where this transformers looks for them in another way.
    """
    if shards is None:
        yield
        return
    from transformers import modeling_utils

    if not hasattr(modeling_utils, "_get_resolved_checkpoint_files"):
        raise CheckpointError(text("error", "no_index", name=Path(shards[0]).name), text("hint", "make_index"))
    given: tuple[list[str], dict[str, Any]] = list(shards), {"weight_map": {}}
    with isolation.here_only(modeling_utils, "_get_resolved_checkpoint_files", lambda *args, **kwargs: given):
        yield


@contextlib.contextmanager
def _accounting(info: dict[str, Any]) -> Iterator[None]:
    """Put into `info` what transformers notes of the keys that were missing, unexpected or of another shape.

    Not all model classes take ``output_loading_info``, which asks for it.
    """
    from transformers import modeling_utils
    from transformers.integrations import peft

    def noting(report: Callable[..., Any]) -> Callable[..., Any]:
        def report_noting(*args: Any, **kwargs: Any) -> Any:
            for name, found in vars(kwargs.get("loading_info", object)).items():
                info[name] = type(found)([*info.get(name, ()), *found]) if isinstance(found, set) else found
            return report(*args, **kwargs)

        return report_noting

    # The second one is asked for an adapter that lies beside the model.
    reports = [(module, "log_state_dict_report") for module in (modeling_utils, peft)]
    found = [(module, name, noting(getattr(module, name))) for module, name in reports if hasattr(module, name)]
    with isolation.replaced_here(found):
        yield


def _check_whole(model: Any, folder: Path, strangers: set[str]) -> None:
    """Refuse a model whose weights are not all there, unless a device map has put some of them off."""
    lost = [name for name, value in model.named_parameters() if value.is_meta]
    if not lost or len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return
    others = ", ".join(sorted(strangers))
    raise LoadError(
        text(
            "error", "lost_meanwhile" if others else "lost", count=len(lost), folder=folder, name=lost[0], others=others
        ),
        text("hint", "again_in_turn"),
    )


def name_model(model: Any, repo_id: str, commit: str | None) -> None:
    """Give a model that was loaded from the cache's folder the name that loading by repository gives it."""
    model.config.name_or_path = model.name_or_path = repo_id
    model.config._commit_hash = commit


def name_tokenizer(tokenizer: Any, repo_id: str) -> None:
    """Give a tokenizer, or a processor's, the name that loading by repository gives it."""
    named = getattr(tokenizer, "tokenizer", tokenizer)
    if hasattr(named, "name_or_path"):
        named.name_or_path = repo_id


_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model",
    "source.spm", "tekken.json", "tokenizer_config.json", "vocab.model", "spm.model", "bpe.codes", "vocab.bpe",
)  # fmt: skip


def load_tokenizer(folder: Path, on_warning: Callable[[str], None], allows_code: bool) -> Any:
    """Return the checkpoint's processor where it has one, else its tokenizer, else None.

    Raises
    ------
    LoadError
        Where there are files for one and none can be made of them.
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
            with _told(folder), records_to(listen):
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
    # Of a model of sentencepiece transformers tries to read tiktoken's format then, and fails with what that lacks.
    lacking = next(filter(None, (re.search(r"requires the (\w+) library", each) for each in said)), None)
    if lacking is not None and _has_sentencepiece(folder):
        first = lacking[0]
        hint = text("hint", "pip", package=lacking[1])
        raise DependencyError(text("error", "package_missing", folder=folder, first=first), hint)
    raise errors[0]


def _has_sentencepiece(folder: Path) -> bool:
    """Tell whether there is a model of sentencepiece: a protobuf message, where tiktoken's files are of text."""
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


@contextlib.contextmanager
def _told(folder: Path, account: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Turn what transformers raises into a LoadError that says what, where and what to do.

    `account` is transformers' own of the keys that it placed.
    """
    try:
        with _only_code_that_was_read(folder):
            yield
    except (LoadError, LoadCancelled):
        raise
    except Exception as error:  # noqa: BLE001 - the libraries raise what they like
        raise explain(error, folder, account) from None


_code_copies: dict[int, tuple[str, Path]] = {}


@contextlib.contextmanager
def code_of(folder: Path, copy: Path) -> Iterator[None]:
    """Have what this thread loads take the code that `folder` brings from its copy."""
    thread = threading.get_ident()
    _code_copies[thread] = os.path.realpath(folder), copy
    try:
        yield
    finally:
        del _code_copies[thread]


@contextlib.contextmanager
def _only_code_that_was_read(folder: Path) -> Iterator[None]:
    """Have transformers import no code on this thread but that of the copy which it may run.

    Raises
    ------
    DependencyError
        Where there is some, and this transformers imports it in another way.
    """
    import transformers

    own = _code_copies.get(threading.get_ident())
    if missing_hooks("code"):
        if own is not None:
            known = {"folder": folder, "version": transformers.__version__}
            raise DependencyError(text("error", "code_unguarded", **known), text("hint", "code_unguarded"))
        yield
        return
    from transformers import dynamic_module_utils

    bring: Any = dynamic_module_utils.get_cached_module_file

    def bring_copy(place: Any, module_file: str, *args: Any, **kwargs: Any) -> Any:
        if own is None:
            raise RemoteCodeError(text("error", "brings_code", folder=folder))
        top, copy = own
        below = os.path.normpath(copy / os.path.relpath(os.path.realpath(place), top))
        if not os.path.isdir(place) or not os.path.isfile(os.path.join(below, module_file)):
            name = os.path.join(place, module_file)
            raise CheckpointError(text("error", "code_other", folder=folder, name=name), text("hint", "own_code_only"))
        return bring(below, module_file, *args, **kwargs)

    with isolation.here_only(dynamic_module_utils, "get_cached_module_file", bring_copy):
        yield


def explain(error: Exception, folder: Path, account: Mapping[str, Any] = MappingProxyType({})) -> LoadError:
    """Return what an exception of the libraries means for the user."""
    broken = import_failure(error)
    if broken is not None:
        return broken
    import torch
    from safetensors import SafetensorError

    said = str(error).strip()
    first = first_line(error) or type(error).__name__
    package = re.search(r"pip install (?:-U |--upgrade )?['\"]?([\w.\[\]<>=,-]+)", said)
    if isinstance(error, ImportError) or package is not None:
        hint = text("hint", "with_pip") if package is None else text("hint", "pip", package=package[1].rstrip(".,"))
        polite = r"[.:]? (?:Please note|You can install|Install it|Please install|You need to install)"
        reason = re.split(polite, first)[0]
        return DependencyError(text("error", "package_missing", folder=folder, first=reason or first), hint)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return LoadError(text("error", "out_of_memory", folder=folder, first=first), text("hint", "free_or_smaller"))
    if isinstance(error, SafetensorError):
        return CheckpointError(
            text("error", "broken_safetensors", folder=folder, first=first), text("hint", "download_again")
        )
    if isinstance(error, ValueError) and "trust_remote_code=True" in said:
        return RemoteCodeError(text("error", "brings_code", folder=folder))
    if "attn_implementation" in said:
        return OptionError(first, text("hint", "other_attention"))
    unknown = re.search(r"unexpected keyword argument '(\w+)'", said)
    if unknown:
        return OptionError(
            text("error", "unknown_argument", folder=folder, name=unknown[1], error=first), text("hint", "out_of_extra")
        )
    if "Weights only load failed" in said or "UnpicklingError" in type(error).__name__:
        return CheckpointError(
            text("error", "pickle_refused", folder=folder, error=_refused(said, first)),
            text("hint", "ask_safetensors"),
            details=said,
        )
    empty = [key for key, stored, _ in account.get("mismatched_keys", ()) if tuple(stored) == (0,)]
    if empty:
        return CheckpointError(
            text("error", "zero3", folder=folder, count=len(empty), name=min(empty)), text("hint", "zero3")
        )
    if account.get("mismatched_keys") and ("ignore_mismatched_sizes" in said or "size mismatch" in said):
        is_beside = any("lora_" in key for key, *_ in account["mismatched_keys"])
        return CheckpointError(
            text(
                "error",
                "beside_misfit" if is_beside else "other_shape",
                folder=folder,
                mismatch=_mismatch(account["mismatched_keys"]),
            ),
            text("hint", "beside_lacks", config=ADAPTER_CONFIG) if is_beside else text("hint", "same_checkpoint"),
            details=said,
        )
    if account.get("conversion_errors"):
        name, reason = min(account["conversion_errors"].items())
        last = str(reason).strip().splitlines()[-1]
        return CheckpointError(
            text("error", "not_converted_here", folder=folder, name=name, reason=last),
            text("hint", "other_repository"),
            details="\n".join(f"{key}: {each}" for key, each in account["conversion_errors"].items()),
        )
    return CheckpointError(
        text("error", "not_by_transformers", folder=folder, kind=type(error).__name__, first=first),
        text("hint", "whole_and_fitting"),
    )


def _refused(said: str, first: str) -> str:
    named = (line.strip() for line in said.splitlines() if "GLOBAL" in line or "nsupported" in line)
    return next(named, first)


def _mismatch(keys: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> str:
    (key, stored, wanted), *others = sorted(keys)
    shapes = {"stored": ", ".join(map(str, stored)), "wanted": ", ".join(map(str, wanted))}
    return text("reason", "mismatches" if others else "mismatch", key=key, **shapes, more=len(others))
