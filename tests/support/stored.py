"""Small checkpoints that are stored quantized, in the way that transformers knows each method."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from support import archs

WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4}
EXPERTS = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_local_experts": 4}
Tensors = dict[str, torch.Tensor]


def write(folder: Path, config: Any, tensors: Tensors, **settings: Any) -> Path:
    """Write a checkpoint of one file; `settings` replace what the config says, None leaves out."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {**config.to_dict(), **settings}
    said = {name: value for name, value in said.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(said))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def llama(dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Tensors]:
    """Return the config and the tensors of a Llama."""
    model = archs.build("llama", **WIDE).to(dtype)
    model.config.architectures = [type(model).__name__]
    return model.config, {key: value.clone() for key, value in model.state_dict().items()}


def _each_linear(pack: Callable[[str, torch.Tensor], Tensors]) -> tuple[Any, Tensors]:
    config, tensors = llama()
    packed: Tensors = {}
    for key, value in tensors.items():
        packed.update(pack(key.removesuffix(".weight"), value) if key.endswith("_proj.weight") else {key: value})
    return config, packed


def fp8(folder: Path, method: str = "fp8", block: int = 128, **settings: Any) -> Path:
    """Write a Llama whose linear weights are float8 with a scale for each block."""
    is_bytes = method == "mxfp8"
    rows, columns = (1, 32) if is_bytes else (block, block)

    def pack(key: str, value: torch.Tensor) -> Tensors:
        blocks = value.float().reshape(value.shape[0] // rows, rows, value.shape[1] // columns, columns)
        scale = blocks.abs().amax((1, 3)).clamp(min=1e-6) / 448
        scale = torch.exp2(scale.log2().ceil()) if is_bytes else scale
        quantized = (blocks / scale[:, None, :, None]).reshape(value.shape).to(torch.float8_e4m3fn)
        stored = (scale.log2() + 127).to(torch.uint8) if is_bytes else scale
        return {f"{key}.weight": quantized, f"{key}.weight_scale_inv": stored.contiguous()}

    config, tensors = _each_linear(pack)
    own = {"quant_method": method, "weight_block_size": [rows, columns], **({"scale_fmt": "ue8m0"} if is_bytes else {})}
    return write(folder, config, tensors, **{"dtype": "bfloat16", "quantization_config": own, **settings})


def mxfp4(folder: Path, **settings: Any) -> Path:
    """Write a gpt-oss whose experts are numbers of 4 bits with a scale for each 32."""
    config = transformers.GptOssConfig(
        **EXPERTS,
        num_experts_per_tok=2,
        vocab_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=64,
    )
    config.architectures = ["GptOssForCausalLM"]
    with torch.device("meta"):
        shapes = transformers.GptOssForCausalLM(config).state_dict()
    tensors: Tensors = {}
    torch.manual_seed(0)
    for key, value in shapes.items():
        if key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inner, outer = value.shape
            blocks = (experts, outer, inner // 32)
            tensors[f"{key}_blocks"] = torch.randint(0, 256, (*blocks, 16), dtype=torch.uint8)
            tensors[f"{key}_scales"] = torch.full(blocks, 120, dtype=torch.uint8)
        else:
            tensors[key] = (torch.randn(value.shape) * 0.02).bfloat16()
    own = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    return write(folder, config, tensors, **{"dtype": "bfloat16", "quantization_config": own, **settings})


def metal(folder: Path, **settings: Any) -> Path:
    """Write a Llama whose linear weights are numbers of 4 bits in groups of 64, as for Apple's GPUs."""

    def pack(key: str, value: torch.Tensor) -> Tensors:
        rows, columns = value.shape
        words = torch.randint(0, 2**31 - 1, (rows, columns // 8), dtype=torch.int64).to(torch.uint32)
        scales = torch.full((rows, columns // 64), 0.01, dtype=torch.bfloat16)
        return {f"{key}.weight": words, f"{key}.scales": scales, f"{key}.qbiases": torch.zeros_like(scales)}

    config, tensors = _each_linear(pack)
    own = {"quant_method": "metal", "bits": 4, "group_size": 64}
    return write(folder, config, tensors, **{"dtype": "bfloat16", "quantization_config": own, **settings})


def saved(folder: Path, quantization: Any) -> Path:
    """Write a Llama as transformers itself quantizes and saves it."""
    config, tensors = llama()
    base = write(folder / "base", config, tensors, dtype="bfloat16")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, quantization_config=quantization, dtype="auto")
    model.save_pretrained(folder / "quantized")
    return folder / "quantized"


def named(folder: Path, settings: Mapping[str, Any] | None, **changes: Any) -> Path:
    """Write a Llama of plain weights whose config names a quantization."""
    config, tensors = llama()
    return write(folder, config, tensors, **{"dtype": "bfloat16", "quantization_config": settings, **changes})
