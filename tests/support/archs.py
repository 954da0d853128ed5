"""Small models of many architectures, made from their configs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
HEADS = {"num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 128}
SPEECH = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
ENCODER_DECODER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}

# name: (config class, its arguments, model class)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("LlamaConfig", GROUPED, "LlamaForCausalLM"),
    "gpt2 (tied)": ("GPT2Config", {"vocab_size": 128, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
                    "GPT2LMHeadModel"),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}, "Qwen3ForCausalLM"),
    "gemma (tied)": ("GemmaConfig", {**GROUPED, "head_dim": 8}, "GemmaForCausalLM"),
    "mistral": ("MistralConfig", GROUPED, "MistralForCausalLM"),
    "phi3": ("Phi3Config", {**GROUPED, **TOKENS}, "Phi3ForCausalLM"),
    "mixtral (MoE)": ("MixtralConfig", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
                      "MixtralForCausalLM"),
    "qwen3_moe (MoE)": ("Qwen3MoeConfig", {**GROUPED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
                                           "moe_intermediate_size": 16}, "Qwen3MoeForCausalLM"),
    "gpt_neox": ("GPTNeoXConfig", TEXT, "GPTNeoXForCausalLM"),
    "opt (tied)": ("OPTConfig", {**HEADS, "ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32,
                                 "pad_token_id": 0}, "OPTForCausalLM"),
    "bloom (tied)": ("BloomConfig", {"vocab_size": 128, "hidden_size": 32, "n_layer": 2, "n_head": 4},
                     "BloomForCausalLM"),
    "mamba (state space)": ("MambaConfig", {"vocab_size": 128, "hidden_size": 32, "state_size": 8,
                                            "num_hidden_layers": 2, **TOKENS}, "MambaForCausalLM"),
    "bert": ("BertConfig", TEXT, "BertModel"),
    "bert masked LM": ("BertConfig", TEXT, "BertForMaskedLM"),
    "distilbert sequences": ("DistilBertConfig", {"vocab_size": 128, "dim": 32, "hidden_dim": 64, "n_layers": 2,
                                                  "n_heads": 4}, "DistilBertForSequenceClassification"),
    "electra tokens": ("ElectraConfig", {**TEXT, "embedding_size": 16}, "ElectraForTokenClassification"),
    "t5 (encoder-decoder)": ("T5Config", {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
                                          "num_heads": 4, "decoder_start_token_id": 0},
                             "T5ForConditionalGeneration"),
    "bart (encoder-decoder)": ("BartConfig", {"vocab_size": 128, **ENCODER_DECODER, "max_position_embeddings": 64},
                               "BartForConditionalGeneration"),
    "whisper (speech)": ("WhisperConfig", {"vocab_size": 128, "num_mel_bins": 8, **ENCODER_DECODER,
                                           "max_source_positions": 32, "max_target_positions": 32,
                                           "decoder_start_token_id": 3, "begin_suppress_tokens": None, **TOKENS},
                         "WhisperForConditionalGeneration"),
    "wav2vec2 (speech)": ("Wav2Vec2Config", SPEECH, "Wav2Vec2ForCTC"),
    "vit (images)": ("ViTConfig", {**VISION, "num_labels": 4}, "ViTForImageClassification"),
    "clip": ("CLIPConfig", {"text_config": {**TEXT, "max_position_embeddings": 32, "projection_dim": 16, **TOKENS},
                            "vision_config": {**VISION, "projection_dim": 16}, "projection_dim": 16}, "CLIPModel"),
    "llava (vision-language)": ("LlavaConfig", {"text_config": {**GROUPED, "model_type": "llama"},
                                                "vision_config": {**VISION, "projection_dim": 16,
                                                                  "model_type": "clip_vision_model"},
                                                "image_token_index": 127, "image_seq_length": 4},
                                "LlavaForConditionalGeneration"),
}  # fmt: skip


def build(name: str, **changes: Any) -> Any:
    """Return a model of this architecture whose every parameter is random, norms and biases too.

    `changes` replace arguments of its config, where it has them.
    """
    import torch
    import transformers

    config_class, arguments, model_class = ARCHITECTURES[name]
    torch.manual_seed(0)
    known = {key: value for key, value in changes.items() if key in arguments}
    config = getattr(transformers, config_class)(**{**arguments, **known})
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.05)
    return model.eval()


def save(model: Any, folder: Path, shards: int = 1, dtype: str | None = None) -> Path:
    """Save a model into `folder` in about so many shards."""
    total = sum(parameter.nbytes for parameter in model.parameters())
    if dtype is not None:
        model = model.to(dtype=getattr(__import__("torch"), dtype))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, max_shard_size=max(1, total // shards) if shards > 1 else "50GB")
    return folder


def copy_tokenizer(source: Path, folder: Path) -> Path:
    """Give a checkpoint the tokenizer of another one; return its folder."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    return folder


def save_bin(model: Any, folder: Path, shards: int = 1, legacy: bool = False) -> Path:
    """Save a model as torch pickles, as checkpoints were before safetensors."""
    import json

    import torch

    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
        return folder
    keys = list(state)
    weight_map = {}
    for index in range(shards):
        name = f"pytorch_model-{index + 1:05}-of-{shards:05}.bin"
        part = {key: state[key] for key in keys[index::shards]}
        weight_map.update(dict.fromkeys(part, name))
        torch.save(part, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def make_adapter(base: Path, folder: Path, name: str = "", rank: int = 4, **settings: Any) -> Path:
    """Make a LoRA adapter for the model in `base`, with weights that change something, and save it."""
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM", **settings)
    made = peft.get_peft_model(model, config)
    with torch.no_grad():
        for key, value in made.named_parameters():
            if "lora_B" in key:
                value.normal_(0, 0.2)
    made.peft_config["default"].base_model_name_or_path = name
    made.save_pretrained(folder)
    return folder


CONFIGURATION = """
from transformers import LlamaConfig

class MineConfig(LlamaConfig):
    model_type = "mine-{name}"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_mine import MineConfig

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
    ran = True
"""


def with_code(folder: Path, name: str, auto_map: dict[str, str] | None = None, linked: Path | None = None) -> Path:
    """Save a model whose classes are code of its own; that lies in `linked`, behind a link, where one is given."""
    import json

    save(build("llama"), folder)
    below = "" if linked is None else "code/"
    own = {
        "AutoConfig": f"{below}configuration_mine.MineConfig",
        "AutoModelForCausalLM": f"{below}modeling_mine.MineForCausalLM",
    }
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": f"mine-{name}", "architectures": ["MineForCausalLM"], "auto_map": auto_map or own}
    (folder / "config.json").write_text(json.dumps(config))
    if linked is not None:
        linked.mkdir()
        (folder / "code").symlink_to(linked)
    (folder / below / "configuration_mine.py").write_text(CONFIGURATION.format(name=name))
    (folder / below / "modeling_mine.py").write_text(MODELING)
    return folder
