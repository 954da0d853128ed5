"""LoadOptions: everything a user may choose about a load."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from nbloader._errors import OptionError, did_you_mean
from nbloader._options import values
from nbloader._options.environment import Notice, from_environment, renamed
from nbloader._options.table import is_of, option, rows_of, types_of
from nbloader._text.catalogue import LOCALES, text
from nbloader._text.units import sentences

_PLACEMENT = {"device", "device_map"}
_AUTO_OR_FLAG = ("auto", True, False)
_FLAG_CHOICES = ("auto", "true", "false")

Made = TypeVar("Made", bound=type)


def _with_environment(made: Made) -> Made:
    """Let a class of options take defaults from the environment, and accept former names of options.

    A dataclass alone refuses an unknown name with a TypeError, and cannot tell a default from a choice.
    """
    generated: Callable[..., None] = made.__init__  # type: ignore[misc]

    @functools.wraps(generated)
    def init(self: Any, **choices: Any) -> None:
        notices: list[Notice] = list(choices.pop("notices", ()))
        choices = renamed(choices, notices)
        for name in choices:
            if name not in ROWS:
                raise OptionError(text("error", "unknown_option", name=repr(name)), did_you_mean(name, ROWS))
        # A device from the caller overrides the environment for both device and device_map.
        chosen = choices.keys() | (_PLACEMENT if _PLACEMENT & choices.keys() else set())
        found = from_environment(TYPES, chosen, notices)
        try:
            defaults = {name: value for name, (_, value) in found.items()}
            generated(self, **defaults, **choices, notices=tuple(dict.fromkeys(notices)))
        except OptionError as error:
            variable = next((source for name, (source, _) in found.items() if error.message.startswith(f"{name}=")), "")
            if not variable:
                raise
            raise OptionError(
                error.message, sentences(error.hint, text("hint", "environment", variable=variable))
            ) from None

    made.__init__ = init  # type: ignore[misc]
    return made


@_with_environment
@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The options of one load. An option that is not given comes from the environment, else from ``from_pretrained``.

    ::

        options = LoadOptions(dtype="bfloat16", device="cpu")
        model, tokenizer = nbloader.load("demo", options, progress=False)

    An option's environment variable is its name in capitals behind ``NBLOADER_``: ``NBLOADER_DTYPE=bfloat16``; a dict
    is given as JSON. ``USE_SAFETENSORS``, ``MAX_MEMORY_GB`` and ``TRANSFORMERS_CACHE`` are understood too.

    Parameters
    ----------
    dtype
        The parameters' type in memory: auto (the type that the checkpoint names), bfloat16, float16 or float32; in
        Python a torch.dtype too. A type other than the checkpoint's costs a copy.
    quantization
        Make the weights smaller while they are placed: 8bit or 4bit (nf4) by bitsandbytes, int8 or int4 (CUDA) by
        torchao. In Python a quantization config of transformers too.
    attn_implementation
        How attention is computed: eager, sdpa, flash_attention_2, or another name that transformers knows. It
        changes how the model runs, not how it is loaded.
    device
        The device for the whole model: cpu (the default), cuda, cuda:1, mps or xpu. Not together with device_map.
    device_map
        Spread the model over devices by accelerate: auto, balanced, balanced_low_0 or sequential; or a dict from
        module name to device.
    max_memory
        How much memory the weights may take: 8GB (10^9 bytes) or 8GiB (2^30) of each device, or a dict from device
        (0, "cpu") to size. A load that needs more on the CPU is refused.
    offload_folder
        The folder for weights that fit on no device. They are read from there at every use.
    adapter
        A LoRA adapter to attach by peft: a folder, or the id of a repository.
    merge_adapter
        Merge the adapter into the weights. The result is a model of the base class, without peft.
    use_safetensors
        Which files to load: true for safetensors only, false for .bin only; by default safetensors where there are
        any.
    variant
        Load the weights of this variant: fp16 for model.fp16.safetensors.
    revision
        Branch, tag or commit hash on the Hub.
    subfolder
        The folder inside the checkpoint that holds the model.
    cache_dir
        The folder of the Hub cache.
    local_files_only
        Do not contact the Hub: a file that is not in the cache is an error.
    token
        Access token for the Hub. By default the one that you logged in with; in Python False for none. It is never
        shown.
    auto_class
        The class that loads the model, such as AutoModelForCausalLM. By default the config decides.
    tokenizer
        Whether to make the tokenizer or processor. auto loads the model without one that cannot be made, and says
        why; true makes that an error; false leaves it out.
    readahead
        Whether to read the files in parallel before they are placed. auto reads into the page cache or, where the
        storage does not keep it, into memory; true always into the page cache; false turns read-ahead off.
    readers
        How many reads run at once, 1 to 64. By default found by measuring.
    keep
        Which models stay loaded: one unloads the others before this one is placed, all keeps them.
    force
        Load even if the weights need more memory than is free, or if the adapter was made for another repository.
    trust_remote_code
        Whether Python code of the checkpoint may run: a commit hash (for a folder, the digest that RemoteCodeError
        shows) allows exactly that code, true allows any code.
    stall_seconds
        Seconds without progress after which the panel offers to cancel the load. The default is 120.
    locale
        The language of the panel, errors and log: en or ko. By default the browser's, or that of LC_ALL,
        LC_MESSAGES or LANG.
    extra
        A dict of anything else that from_pretrained takes.

    Raises
    ------
    OptionError
        For an option that does not exist, or a value that it cannot take.
    """

    dtype: str = option(default="auto", take=values.dtype_name, group="weights", choices=values.DTYPES)
    quantization: Any = option(
        take=values.quantization_name,
        check=values.check_quantization,
        group="weights",
        choices=("", *values.QUANTIZATIONS),
    )
    attn_implementation: str | None = option(group="weights", choices=("", "sdpa", "eager", "flash_attention_2"))
    device: str | None = option(
        take=values.device_name,
        check=values.check_device,
        group="placement",
        field="placement",
        choices=("", "cuda", "mps"),
    )
    device_map: str | Mapping[str, Any] | None = option(
        check=values.check_device_map, group="placement", field="placement", choices=("auto", "balanced")
    )
    max_memory: int | Mapping[int | str, int] | str | None = option(take=values.limits, group="placement")
    offload_folder: str | None = option(take=values.path, group="placement")
    adapter: str | None = option(take=values.path, group="adapter")
    merge_adapter: bool = option(default=False, group="adapter")
    use_safetensors: bool | None = option(group="files", choices=("", "true", "false"))
    variant: str | None = option(check=values.check_variant, group="files")
    revision: str | None = option(group="files", finds_files=True, only_on_hub=True)
    subfolder: str = option(default="", check=values.check_subfolder, group="files", finds_files=True)
    cache_dir: str | None = option(take=values.path, group="files", finds_files=True, only_on_hub=True)
    local_files_only: bool = option(
        default=False, group="files", finds_files=True, only_on_hub=True, makes_another=False
    )
    token: str | bool | None = option(take=values.token, repr=False, finds_files=True, makes_another=False)
    auto_class: str | type | None = option(group="loading")
    tokenizer: bool | str = option(
        default="auto", check=values.one_of("tokenizer", _AUTO_OR_FLAG), group="loading", choices=_FLAG_CHOICES
    )
    readahead: bool | str = option(
        default="auto",
        check=values.one_of("readahead", _AUTO_OR_FLAG),
        group="loading",
        choices=_FLAG_CHOICES,
        makes_another=False,
    )
    readers: int | None = option(check=values.check_readers, group="loading", makes_another=False)
    keep: str = option(
        default="one",
        check=values.one_of("keep", values.KEEPS),
        group="loading",
        choices=values.KEEPS,
        makes_another=False,
        in_command=False,
    )
    force: bool = option(default=False, group="loading", makes_another=False)
    trust_remote_code: bool | str = option(default=False, check=values.check_consent)
    stall_seconds: float = option(default=120.0, check=values.check_seconds, makes_another=False, in_command=False)
    locale: str | None = option(check=values.one_of("locale", (*LOCALES, None)), makes_another=False)
    extra: Mapping[str, Any] = option(default_factory=dict, in_command=False)
    notices: tuple[Notice, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, row in ROWS.items():
            value = getattr(self, name)
            if row.take is not None:
                value = row.take(value)
                object.__setattr__(self, name, value)
            if not is_of(value, TYPES[name]):
                shown = f"<{type(value).__name__}>" if name == "token" else repr(value)
                raise OptionError(
                    text("error", "wrong_option_type", name=name, shown=shown), text("hint", "see_help", name=name)
                )
            if row.check is not None:
                row.check(value)
        if self.device is not None and self.device_map is not None:
            known = {"device": repr(self.device), "device_map": repr(self.device_map)}
            raise OptionError(text("error", "device_and_device_map", **known), text("hint", "one_of_them"))
        if self.merge_adapter and self.adapter is None:
            raise OptionError(text("error", "merge_without_adapter"), text("hint", "name_adapter"))
        _check_extra(self.extra)

    def allows_code(self, commit: str | None) -> bool:
        """Return whether Python code of this commit (or digest) may run."""
        return self.trust_remote_code is True or (commit is not None and self.trust_remote_code == commit)

    @property
    def placement(self) -> str | Mapping[str, Any] | None:
        """The device map to load with; None leaves everything on the CPU."""
        return self.device if self.device is not None else self.device_map


ROWS = rows_of(LoadOptions)
"""Every option by name."""

TYPES = types_of(LoadOptions)


def changed_options(options: LoadOptions) -> dict[str, Any]:
    """Return the options that differ from the defaults of this environment, as plain values; never a token."""
    defaults = LoadOptions()
    changed = {name: getattr(options, name) for name in ROWS if name != "token"}
    return {name: _plain(value) for name, value in changed.items() if value != getattr(defaults, name)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, type):
        return value.__name__
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def merge_options(options: LoadOptions | None, choices: Mapping[str, Any]) -> LoadOptions:
    """Return `options` (or the defaults) with `choices` on top.

    Raises
    ------
    OptionError
        For an unknown option, with the nearest known name, or a value that it cannot take.
    """
    if options is None:
        return LoadOptions(**choices)
    if not isinstance(options, LoadOptions):
        raise OptionError(
            text("error", "invalid_options", type=type(options).__name__),
            text("hint", "pass_options"),
        )
    notices = list(options.notices)
    changes = renamed(choices, notices)
    if _PLACEMENT & changes.keys():  # device and device_map exclude each other, so a new one replaces both
        changes = {**dict.fromkeys(_PLACEMENT), **changes}
    return replace(options, **changes, notices=tuple(notices))


def _check_extra(extra: Mapping[str, Any]) -> None:
    for name in extra:
        if name in ROWS or name in _OURS:
            raise OptionError(
                text("error", "invalid_extra", name=repr(name)),
                text("hint", _OURS[name]) if name in _OURS else text("hint", "give_itself", name=name),
            )


_OURS = {
    "config": "own_config",
    "weights_only": "safe_pickles",
    "output_loading_info": "log_says",
    "state_dict": "own_weights",
}
