"""A part of the sweep over all model types (``make sweep``): each mechanism once, and each type that was ever wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.model_types import check_classes
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# What loaded wrongly once: initializers called by keyword, values made by old constructors, configs of other classes.
EVER_WRONG = (
    "siglip_vision_model", "siglip2_vision_model", "bridgetower", "cohere2_vision", "colmodernvbert", "deepseek_vl",
    "dac", "xcodec", "wav2vec2", "unispeech", "dab-detr", "mask2former", "encodec", "bark", "xlnet", "edgetam_video",
    "exaone", "glmga", "jev",
)  # fmt: skip
MECHANISMS = (
    "gpt2",  # tied weights, transposed linear layers
    "mixtral", "qwen3_moe",  # experts that are joined
    "deepseek_v3",  # weights that stay in float32
    "t5", "bart",  # several embeddings that are one
    "llava", "qwen2_vl", "clip", "whisper",  # parts with configs of their own
    "mamba",  # state spaces
    "hubert",  # weight norm
    "resnet",  # batch norm, whose buffers count
    "swin", "timesformer", "rt_detr",  # buffers that are computed
    "encoder-decoder",  # made of other models
)  # fmt: skip


def has_a_default(model_type: str) -> bool:
    """Return whether the installed transformers can make a type's config of nothing: older ones cannot."""
    try:
        CONFIG_MAPPING[model_type]()
    except (KeyError, ValueError):
        return False
    return True


@pytest.mark.parametrize("model_type", [*filter(has_a_default, sorted({*EVER_WRONG, *MECHANISMS}))])
def test_the_model_equals_plain_from_pretrained(model_type: str, tmp_path: Path) -> None:
    check_classes(model_type, tmp_path, dtypes=("bfloat16",))
