"""Choose the class of a model, and check that the model can be built on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nbloader._errors import CheckpointError, OptionError, RemoteCodeError, did_you_mean
from nbloader._libraries.transformers.errors import as_load_error, load_error_of
from nbloader._text.catalogue import text


def check_architecture(
    folder: Path, config: Mapping[str, Any], auto_class: str | type | None, allows_code: bool
) -> None:
    """Refuse a checkpoint whose architecture the auto classes of this process do not know.

    If `auto_class` is a model class, nothing is checked: it has its own config class.

    Raises
    ------
    RemoteCodeError
        If the architecture needs the checkpoint's own code, and that code is not allowed to run.
    CheckpointError
        If the model type is missing or unknown, or if its code is in another repository.
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
            text("error", "code_in_other_repository", **known, repository=elsewhere[0].partition("--")[0]),
            text("hint", "own_code_only"),
        )
    if is_known or (_code_names(config) and allows_code):
        return
    if _code_names(config):
        raise RemoteCodeError(text("error", "model_type_needs_code", **known))
    try:
        transformers.AutoConfig.from_pretrained(str(folder))
    except ImportError as error:  # such as timm, whose configs do not name a model type
        raise load_error_of(error, folder) from None
    except Exception:  # noqa: BLE001, S110 - reported below
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
    """Refuse a checkpoint whose config names another repository for its attention kernel.

    Otherwise transformers downloads and runs that code with the package ``kernels``, although the user did not ask
    for it.

    Raises
    ------
    CheckpointError
        If the config names such a repository.
    """
    named = [name for name in _attention_names(config) if "/" in name]
    if named:
        raise CheckpointError(
            text("error", "attention_in_other_repository", config=folder / "config.json", name=named[0]),
            text("hint", "choose_attention", name=repr(named[0])),
        )


def _attention_names(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield every attention implementation that a config and its parts name."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _attention_names(value)
        if "attn_implementation" in name:
            values = value.values() if isinstance(value, Mapping) else [value]
            yield from (chosen for chosen in values if isinstance(chosen, str))


def _code_names(config: Mapping[str, Any]) -> list[str]:
    """Return the classes that a config names in the checkpoint's own code, such as "modeling_x.Class"."""
    named = config.get("auto_map")
    values = named.values() if isinstance(named, Mapping) else ()
    return [name for value in values for name in (value if isinstance(value, list) else [value]) if name is not None]


def load_config(
    folder: Path, extra: Mapping[str, Any], auto_class: str | type | None, allows_code: bool
) -> tuple[Any, dict[str, Any]]:
    """Return the checkpoint's config, and those items of `extra` that the config does not use.

    If `auto_class` is a model class, the config has its config class. Otherwise ``AutoConfig`` chooses the class.
    """
    from transformers import AutoConfig

    named: Any = None if auto_class is None else _named_class(auto_class)
    with as_load_error(folder):
        if _is_model_class(named) and named.config_class is not None:
            config, rest = named.config_class.from_pretrained(str(folder), return_unused_kwargs=True, **extra)
        else:
            config, rest = AutoConfig.from_pretrained(
                str(folder), trust_remote_code=allows_code, return_unused_kwargs=True, **extra
            )
    return config, {name: value for name, value in rest.items() if name in extra}


def find_model_class(config: Any, auto_class: str | type | None, allows_code: bool) -> tuple[Any, Any]:
    """Return the class that loads the model, and the config to pass to it.

    The first of these that applies is the class:

    - `auto_class`, if it is given;
    - the auto class that the config names for the checkpoint's own code, if that code is allowed to run;
    - the class that the config names as its architecture, which the matching auto class would choose, too;
    - an auto class that fits the model type: for sequence to sequence, for causal LM, or the bare ``AutoModel``.

    Raises
    ------
    OptionError
        If transformers does not have `auto_class`.
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
            # The text-only class of a multimodal model needs only the text part of the config.
            is_text_only = text is not None and found.config_class is text and not isinstance(config, text)
            return found, config.get_text_config() if is_text_only else config
    return _guessed_class(config), config


def _registered_class(name: str, config: Any) -> Any:
    """Return the class of this name that is registered with an auto class for such a config; None if there is none."""
    import transformers

    autos = (getattr(transformers, auto) for auto in dir(transformers) if auto.startswith("AutoModel"))
    found = (auto._model_mapping[type(config)] for auto in autos if _knows(auto, config))
    return next((kind for kind in found if getattr(kind, "__name__", "") == name), None)


def _knows(auto: Any, config: Any) -> bool:
    """Return whether an auto class has a class for such a config."""
    return type(config) in getattr(auto, "_model_mapping", ())


def _guessed_class(config: Any) -> Any:
    import transformers as library

    if config.is_encoder_decoder:
        has_class = _knows(library.AutoModelForSeq2SeqLM, config)
        return library.AutoModelForSeq2SeqLM if has_class else library.AutoModel
    is_encoder = _knows(library.AutoModelForMaskedLM, config) and not getattr(config, "is_decoder", False)
    has_class = _knows(library.AutoModelForCausalLM, config) and not is_encoder
    return library.AutoModelForCausalLM if has_class else library.AutoModel


def _is_model_class(found: object) -> bool:
    from transformers import PreTrainedModel

    return isinstance(found, type) and issubclass(found, PreTrainedModel)


def _named_class(auto_class: str | type) -> Any:
    import transformers

    found = getattr(transformers, auto_class, None) if isinstance(auto_class, str) else auto_class
    if not hasattr(found, "from_pretrained"):
        known = [name for name in dir(transformers) if name.startswith("AutoModel")]
        raise OptionError(
            text("error", "invalid_auto_class", auto_class=repr(auto_class)),
            did_you_mean(auto_class, known) if isinstance(auto_class, str) else text("hint", "auto_class"),
        )
    return found
