"""The demo: a checkpoint with a real layout and random weights, written on this machine without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from nbloader._errors import OptionError
from nbloader._text.catalogue import text

_VOCABULARY = 1024
_VERSION = 1  # of the files' content; a new version gets a new folder
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_TEXT = (
    "The checkpoint is on the disk, and the model is in memory once every byte of it has been read and placed.",
    "A notebook should say what it is doing: how much is read, how fast, and how long it will take.",
    "Weights come in shards, shards hold tensors, and tensors hold numbers.",
    "체크포인트는 디스크에 있고, 모든 바이트를 읽어 제자리에 놓으면 모델은 메모리에 있습니다.",
    "노트북은 지금 무엇을 하는지, 얼마나 읽었는지, 얼마나 걸릴지 말해 주어야 합니다.",
)


_SIZE, _SHARDS = "1GB", 4  # of the checkpoint that the name ``"demo"`` stands for


def demo_checkpoint(
    size: str | int = _SIZE,
    shards: int = _SHARDS,
    *,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Path:
    """Write a demo checkpoint, unless it exists already, and return its folder.

    It has the Llama architecture, seeded random weights in bfloat16, and a byte-level tokenizer that can encode and
    decode any text. The text that the model generates is meaningless.

    Parameters
    ----------
    size
        Approximate size of the weights: ``"20MB"``, ``"1GB"`` (decimal units), or a number of bytes; at least 1 MB.
    shards
        Number of weight files.
    seed
        Seed of the weights: the same arguments give the same bytes.
    cache_dir
        Folder to write into; None for the user's cache folder.
    check_cancelled
        Called before each tensor. If it raises an exception, writing stops and the partial files are deleted.

    Raises
    ------
    OptionError
        If the size or the number of shards is not valid.
    """
    total = _parse_size(size)
    config = _config(total)
    names = list(_tensors(config))
    if not isinstance(shards, int) or not 1 <= shards <= len(names):
        raise OptionError(
            text("error", "invalid_shard_count", shards=repr(shards), count=len(names)),
            text("hint", "shards_from", count=len(names)),
        )
    folder = _folder(total, shards, seed, cache_dir)
    if folder.is_dir():
        return folder
    root = folder.parent
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".demo-", ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / "checkpoint"
        made.mkdir()
        _write_weights(made, config, shards, seed, check_cancelled)
        _write_json(made / "config.json", config)
        _write_tokenizer(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process wrote the same bytes first
                raise
            shutil.rmtree(made)
    return folder


def is_written() -> bool:
    """Return whether the demo checkpoint that ``"demo"`` stands for has been written."""
    return _folder(_parse_size(_SIZE), _SHARDS, 0, None).is_dir()


def _folder(total: int, shards: int, seed: int, cache_dir: str | os.PathLike[str] | None) -> Path:
    root = Path(cache_dir) if cache_dir is not None else _cache_folder()
    return root / f"demo-v{_VERSION}-{total}-{shards}-{seed}"


def _cache_folder() -> Path:
    with suppress(RuntimeError):  # no HOME, and no entry in the password file
        folder = user_cache_path("nbloader")
        if folder.is_absolute():  # older platformdirs return a folder named "~"
            return folder
    raise OptionError(text("error", "no_home_folder"), text("hint", "no_home"))


def _parse_size(size: str | int) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB)", str(size).upper())
    total = int(float(match[1]) * _UNITS[match[2]]) if match else size
    if not isinstance(total, int) or total < 10**6:
        raise OptionError(text("error", "invalid_size", size=repr(size)), text("hint", "give_size"))
    return total


def _config(size: int) -> dict[str, Any]:
    def layer_bytes(width: int) -> int:
        return 2 * sum(rows * columns for rows, columns in _layer_shapes(width).values())

    widths = [2**power for power in range(6, 13)]
    width = max([width for width in widths if 8 * layer_bytes(width) <= size] or widths[:1])
    layers = max(1, round((size - 4 * _VOCABULARY * width) / layer_bytes(width)))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": width,
        "intermediate_size": _inner(width),
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": max(1, width // 128),
        "head_dim": 32,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def _inner(width: int) -> int:
    return width * 11 // 4


def _layer_shapes(width: int) -> dict[str, tuple[int, int]]:
    keys = max(1, width // 128) * 32
    return {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (_inner(width), width),
        "mlp.up_proj": (_inner(width), width),
        "mlp.down_proj": (width, _inner(width)),
    }


def _tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = config["hidden_size"]
    yield "model.embed_tokens.weight", (_VOCABULARY, width)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (width,)
        for name, shape in _layer_shapes(width).items():
            yield f"{prefix}.{name}.weight", shape
        yield f"{prefix}.post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (_VOCABULARY, width)


def _write_weights(
    folder: Path, config: dict[str, Any], shards: int, seed: int, check_cancelled: Callable[[], None]
) -> None:
    tensors = list(_tensors(config))
    sizes = [2 * _product(shape) for _, shape in tensors]
    weight_map = {}
    begin = 0
    for index in range(shards):
        end = _cut(sizes, begin, shards - index)
        name = f"model-{index + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        weight_map.update(dict.fromkeys((key for key, _ in tensors[begin:end]), name))
        _write_shard(folder / name, tensors[begin:end], seed + begin, check_cancelled)
        begin = end
    if shards > 1:
        index_content = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index_content)


def _write_shard(
    path: Path, tensors: list[tuple[str, tuple[int, ...]]], seed: int, check_cancelled: Callable[[], None]
) -> None:
    """Write a safetensors file tensor by tensor, so that a whole shard is never in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for key, shape in tensors:
        end = offset + 2 * _product(shape)
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (_, shape) in enumerate(tensors):
            check_cancelled()
            file.write(_random_bfloat16(shape, seed + number))


def _cut(sizes: list[int], begin: int, shards: int) -> int:
    """Return where the next of `shards` equal shards ends; each of the others keeps at least one tensor."""
    target, end, total = sum(sizes[begin:]) / shards, begin + 1, sizes[begin]
    while end < len(sizes) - (shards - 1) and (total + sizes[end] / 2 <= target or shards == 1):
        total += sizes[end]
        end += 1
    return end


def _random_bfloat16(shape: tuple[int, ...], seed: int) -> bytes:
    import numpy as np

    if len(shape) == 1:
        return np.full(shape, 0x3F80, np.uint16).tobytes()  # the weights of a norm are ones
    bits = np.frombuffer(np.random.default_rng(seed).bytes(2 * _product(shape)), np.uint16)
    # Random sign and mantissa, one exponent: magnitudes from 1/128 to 1/64, at the speed of raw bits.
    return ((bits & 0x807F) | 0x3C00).tobytes()


def _product(shape: tuple[int, ...]) -> int:
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "</s>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
        },
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
