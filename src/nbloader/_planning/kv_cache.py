"""The memory that a model's KV cache needs, computed from its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nbloader._checkpoint.headers import FLOATS

_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


class KVCache(NamedTuple):
    """How the KV cache of one sequence grows: by `layer_bytes` for each token in each layer.

    Layers with sliding-window attention keep at most `window` tokens.
    """

    full_layers: int
    sliding_layers: int
    window: int
    layer_bytes: int

    def bytes(self, context_length: int) -> int:
        """Return the size of the cache for `context_length` tokens."""
        tokens = self.full_layers * context_length + self.sliding_layers * min(context_length, self.window)
        return tokens * self.layer_bytes


def kv_cache_of(config: Mapping[str, Any], dtype: str | None) -> KVCache | None:
    """Return how the cache grows, from the keys of a transformers config; None if the config says too little."""
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    if dtype is None or not any(str(name).endswith(_GENERATES) for name in named):
        return None
    text = config.get("text_config")
    text = text if isinstance(text, Mapping) else config

    def number(*names: str) -> int | None:
        found = next((text[name] for name in names if text.get(name) is not None), None)
        return found if type(found) is int and found > 0 else None

    layers, heads = number("num_hidden_layers", "n_layer"), number("num_attention_heads", "n_head")
    width = number("hidden_size", "n_embd")
    if layers is None or heads is None or width is None or config.get("is_encoder_decoder") or "kv_lora_rank" in text:
        return None
    kv_heads, head_dim = number("num_key_value_heads") or heads, number("head_dim") or width // heads
    kinds = text.get("layer_types")
    kinds = kinds if isinstance(kinds, list) and len(kinds) == layers else ["full_attention"] * layers
    window = number("sliding_window") or 0
    return KVCache(
        full_layers=kinds.count("full_attention"),
        sliding_layers=kinds.count("sliding_attention"),
        window=window,
        layer_bytes=2 * kv_heads * head_dim * FLOATS[dtype][1],
    )
