"""Every model type that the installed transformers has, built small from its own default config."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_BYTES = 48 << 20
"""What a model may take; one that cannot be made smaller is left out."""

ENOUGH_BYTES = 3 << 20  # small enough not to look further
DTYPES = ("float32", "bfloat16", "auto")

# What a number of a config means is told by its name. The first pattern says which are meant, the second which are not.
_DEPTHS = (
    re.compile(r"(^|_)(layers?|depths?|blocks?|n_layer)(_|$)|num_block_repeats|layer_list"),
    re.compile(
        r"layers?_(per|norm|drop|scale|types?|ind|interval)|blocks?_(size|type|pattern|sparse|ind)|(?<!n)_layer$"
        r"|no_rope|fix|attn_res|cross_attention_layers|every|kernel|dim|size|mid|dropout|channels|stride|factor"
        r"|indexes|ids|source|sampl"
    ),
)
_WIDTHS = (
    re.compile(r"(size|dim|channels|units|rank|width|filters|features)s?$|^(d_\w+|n_embd|n_inner)$|channel(s_|_)list"),
    re.compile(
        r"patch_size|image_size|vocab|kernel|window|num_channels|^in_channels$|in_chans|audio_channels|max_|chunk"
        r"|codebook_size|expansion|batch|num_mel|sample|pool_size|block_size|temporal|crop|grid|query_dim"
    ),
)
_MOST = {
    re.compile(r"(?<!type_)vocab_size|num_embeddings|codebook_size|num_codes"): 128,
    re.compile(r"max_\w*position|n_positions|n_ctx|context_length|seq_len|max_length|position_embeddings"): 64,
    re.compile(r"num_(local_|routed_)?experts$|n_routed_experts|^n_group$|topk_group$"): 4,
    re.compile(r"experts_per_tok|top_?k$|moe_k"): 2,
}
_LAYERWISE = ("layer_types", "mlp_layer_types", "indexer_types", "layers_block_type", "no_rope_layers", "moe_layers")
_KEPT = ("id2label", "label2id", "rope_parameters", "rope_scaling", "task_specific_params")

_RESNET = {
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "backbone_kwargs": None,
    "backbone_config": {"model_type": "resnet", "hidden_sizes": [8] * 4, "depths": [1] * 4, "embedding_size": 8,
                        "out_features": ["stage2", "stage3", "stage4"]},
}  # fmt: skip
_GIVEN: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("detr", "conditional_detr", "dab-detr", "deformable_detr", "table-transformer"), _RESNET),
    **{
        key: {"prediction_length": 4, "context_length": 8}
        for key in ("autoformer", "informer", "time_series_transformer")
    },
    **{key: {"context_size": 16} for key in ("granite_speech5_ctc", "granite_speech5_encoder")},
    **{key: {"head_dim": 16} for key in ("hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_vl_text", "ministral")},
    "esm": {"vocab_size": 33},
    "nemotron": {"num_key_value_heads": 2},
    "xlnet": {"d_model": 32, "n_head": 4, "d_inner": 64, "d_head": 8},
}
"""What a config needs besides its defaults, or what no rule makes small."""


class LeftOut(Exception):
    """Why a model type, or a class of it, cannot be built small here."""


def model_types() -> list[str]:
    """Return every model type of transformers' config mapping."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return sorted(CONFIG_MAPPING_NAMES)


def model_classes(model_type: str) -> list[Any]:
    """Return a type's classes in all auto mappings, the base class first; without any, the first of its module."""
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    mappings = [name for name in vars(modeling_auto) if re.fullmatch("MODEL_.*MAPPING_NAMES", name)]
    names: dict[str, None] = {}
    for mapping in sorted(mappings, key=lambda name: (name != "MODEL_MAPPING_NAMES", name)):
        found = getattr(modeling_auto, mapping).get(model_type, ())
        names.update(dict.fromkeys([found] if isinstance(found, str) else found))
    classes = [getattr(transformers, name, None) for name in names]
    classes = [kind for kind in classes if inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)]
    if classes:
        return classes
    config_class = CONFIG_MAPPING[model_type]
    try:
        module = importlib.import_module(config_class.__module__.replace("configuration_", "modeling_"))
    except ImportError as error:
        raise LeftOut(str(error)) from None
    own = [kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == module.__name__]
    models = [kind for kind in own if issubclass(kind, transformers.PreTrainedModel)]
    found = [
        kind for kind in models if kind.config_class is config_class and not kind.__name__.endswith("PreTrainedModel")
    ]
    if not found:
        raise LeftOut("no model class of its own: it is a part of others")
    return found[:1]


def small_config(model_type: str) -> Any:
    """Return the smallest config of a type, of those tried, with which its first class can be built.

    Raises
    ------
    LeftOut
        Where none can be, or not below `MOST_BYTES`.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind, config_class = model_classes(model_type)[0], CONFIG_MAPPING[model_type]
    found: list[tuple[int, Any]] = []
    why = ""
    for factor, layers in _trials():
        try:
            values = _shrink(config_class().to_dict(), factor, layers)
            config = config_class.from_dict({**values, **_GIVEN.get(model_type, {})})
            found.append((_bytes_of(kind, config), config))
        except Exception as error:
            why = why or " ".join(f"{type(error).__name__}: {error}".split())[:160]
            continue
        if found[-1][0] <= ENOUGH_BYTES:
            break
    if not found:
        raise LeftOut(why)
    size, config = min(found, key=lambda each: each[0])
    if size > MOST_BYTES:
        raise LeftOut(f"takes {size >> 20} MiB at least")
    return config


def _trials() -> Iterator[tuple[int, int]]:
    """Yield (what widths are divided by, how many layers there are at most)."""
    yield from ((64, 2), (32, 2), (16, 2), (16, 3), (8, 2), (8, 4), (4, 2), (4, 4), (2, 2), (1, 2))
    yield from ((64, 99), (16, 99), (4, 99), (1, 99))


def _shrink(values: Mapping[str, Any], factor: int, layers: int) -> dict[str, Any]:
    made = {
        name: value if name in _KEPT else _shrink_value(name, value, factor, layers) for name, value in values.items()
    }
    count, vocabulary = made.get("num_hidden_layers"), made.get("vocab_size")
    for name, value in made.items():
        if name in _LAYERWISE and isinstance(value, (list, tuple)) and isinstance(count, int):
            made[name] = list(value)[:count]
        if isinstance(vocabulary, int) and re.search("_(id|index)s?$", name) and type(value) is int:
            made[name] = min(value, vocabulary - 1)
    return made


def _shrink_value(name: str, value: Any, factor: int, layers: int) -> Any:
    if isinstance(value, Mapping):
        return _shrink(value, factor, layers)
    if isinstance(value, (list, tuple)):
        is_numeric = value and all(type(part) is int or isinstance(part, (list, tuple)) for part in value)
        return [_shrink_value(name, part, factor, 1) for part in value] if is_numeric else value
    if type(value) is not int:
        return value
    if _is_meant(name, _DEPTHS):
        return min(value, layers)
    most = next((most for pattern, most in _MOST.items() if pattern.search(name)), None)
    if most is not None:
        return min(value, most)
    return value // factor if _is_meant(name, _WIDTHS) and value >= 2 * factor else value


def _is_meant(name: str, patterns: tuple[re.Pattern[str], re.Pattern[str]]) -> bool:
    meant, not_meant = patterns
    return bool(meant.search(name)) and not not_meant.search(name)


def _bytes_of(kind: Any, config: Any) -> int:
    import torch

    with torch.device("meta"):
        model = kind(copy.deepcopy(config))
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def save_random(kind: Any, config: Any, folder: Path) -> Path:
    """Save a model of this class whose every number, buffers' too, is random.

    Raises
    ------
    LeftOut
        Where it cannot be built or saved.
    """
    import torch

    torch.manual_seed(0)
    try:
        model = kind(copy.deepcopy(config))
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    tensor.normal_(0, 0.05)
        model.save_pretrained(folder)
    except Exception as error:
        raise LeftOut(" ".join(f"{kind.__name__}: {type(error).__name__}: {error}".split())[:160]) from None
    return folder


def check_classes(model_type: str, folder: Path, dtypes: Sequence[str] = DTYPES) -> list[str]:
    """Hold what nbloader loads of a type against plain ``from_pretrained``; return why classes were left out.

    Raises
    ------
    LeftOut
        Where no class of it can be built.
    AssertionError
        Where something differs.
    """
    config = small_config(model_type)
    kinds = model_classes(model_type)
    left_out, wrong = [], []
    for number, kind in enumerate(kinds):
        place = folder / str(number)
        try:
            save_random(kind, config, place)
        except LeftOut as reason:
            left_out.append(str(reason))
            continue
        wrong += [found for dtype in dtypes for found in _compare(kind, place, dtype)]
    assert wrong == []
    if len(left_out) == len(kinds):
        raise LeftOut("; ".join(left_out))
    return left_out


def _compare(kind: Any, folder: Path, dtype: str) -> list[str]:
    import torch

    import nbloader
    from support.compare import differences

    torch.manual_seed(0)
    try:
        plain: Any = kind.from_pretrained(folder, dtype=dtype)
    except Exception as error:
        plain = error
    torch.manual_seed(0)
    try:
        model: Any = nbloader.load(folder, dtype=dtype, auto_class=kind, progress=False, reload=True).model
    except nbloader.LoadError as error:
        model = error
    if isinstance(plain, Exception) and isinstance(model, Exception):
        return []
    return [f"{kind.__name__} as {dtype}: {found}" for found in differences(model, plain)[:4]]
