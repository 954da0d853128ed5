"""How true the predicted peak of memory is: predicted against observed, over architectures, types and formats.

``python benchmarks/peak_memory.py`` makes a checkpoint of some 0.6 GB in bfloat16 for each of six architectures, and
loads it in a fresh process for each case. Predicted and observed are both counted above what the process held when
placing began, the imported libraries included. Observed is the kernel's own account of the peak (VmHWM) or, if that is
more, what is held at the end with mapped weights that are resident and not touched yet. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

WIDTH = 1024
TEXT = {"hidden_size": WIDTH, "num_attention_heads": 16, "vocab_size": 32_000, "max_position_embeddings": 2048}
GROUPED = {**TEXT, "intermediate_size": 4096, "num_key_value_heads": 4}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("LlamaConfig", {**GROUPED, "num_hidden_layers": 15}, "LlamaForCausalLM"),
    "gpt2": ("GPT2Config", {"n_embd": WIDTH, "n_layer": 21, "n_head": 16, "n_positions": 2048}, "GPT2LMHeadModel"),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 64, "num_hidden_layers": 15}, "Qwen3ForCausalLM"),
    "mixtral": (
        "MixtralConfig",
        {**GROUPED, "num_hidden_layers": 3, "num_local_experts": 6, "num_experts_per_tok": 2},
        "MixtralForCausalLM",
    ),
    "bert": ("BertConfig", {**TEXT, "intermediate_size": 4096, "num_hidden_layers": 21}, "BertForMaskedLM"),
    "t5": (
        "T5Config",
        {"d_model": WIDTH, "d_ff": 4096, "num_layers": 11, "num_heads": 16, "d_kv": 64, "vocab_size": 32_000},
        "T5ForConditionalGeneration",
    ),
}
STORED_LLAMA = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 8}
STORED_LLAMA |= {"num_key_value_heads": 8, "vocab_size": 8000}
STORED_EXPERTS = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 12, "num_local_experts": 32}
CASES: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "float32": {"dtype": "float32"},
    "8bit": {"quantization": "8bit"},
    "4bit": {"quantization": "4bit"},
    "int8": {"quantization": "int8"},
    "adapter": {"adapter": "{lora}"},
    "adapter, merged": {"adapter": "{lora}", "merge_adapter": True},
}


def main() -> None:
    """Measure every case, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(ARCHITECTURES), help="these architectures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(**json.loads(arguments.one))
        return
    print("| architecture | format | load | predicted | observed | off by |\n|---|---|---|---|---|---|")
    worst = 0.0
    for name in arguments.only:
        for kind in ("safetensors", "bin"):
            with tempfile.TemporaryDirectory() as folder:
                make(name, kind, Path(folder) / "base")
                make_adapter(Path(folder) / "base", Path(folder) / "lora")
                for case, settings in CASES.items():
                    lora = str(Path(folder) / "lora")
                    choices = {key: lora if value == "{lora}" else value for key, value in settings.items()}
                    predicted, observed = run(f"{folder}/base", choices)
                    off = predicted / observed - 1
                    worst = max(worst, abs(off))
                    sizes = f"{predicted / 1e6:.0f} MB | {observed / 1e6:.0f} MB"
                    print(f"| {name} | {kind} | {case} | {sizes} | {off:+.1%} |", flush=True)
    if arguments.only == list(ARCHITECTURES):
        worst = max(worst, measure_stored())
    print(f"\nAt most {worst:.1%} off.")


def measure_stored() -> float:
    """Measure checkpoints that are stored quantized and become floats here; return how far off the worst was."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from support import stored

    stored.WIDE.update(STORED_LLAMA)
    stored.EXPERTS.update(STORED_EXPERTS)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("fp8", "mxfp8", "mxfp4", "metal"):
            path = Path(folder) / name
            stored.fp8(path, name) if "fp8" in name else getattr(stored, name)(path)
            for dtype in ("auto", "float32"):
                predicted, observed = run(str(path), {"dtype": dtype, "device": "cpu"})
                off = predicted / observed - 1
                worst = max(worst, abs(off))
                sizes = f"{predicted / 1e6:.0f} MB | {observed / 1e6:.0f} MB"
                print(f"| {name} | safetensors | {dtype} | {sizes} | {off:+.1%} |", flush=True)
    return worst


def make(name: str, kind: str, folder: Path) -> None:
    """Write a checkpoint with random weights, in shards of 256 MB."""
    import torch
    import transformers

    config_class, settings, model_class = ARCHITECTURES[name]
    config = getattr(transformers, config_class)(**settings, architectures=[model_class], dtype="bfloat16")
    model = getattr(transformers, model_class)._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="256MB")
    if kind == "bin":
        to_bin(folder)


def make_adapter(base: Path, folder: Path) -> None:
    """Write a LoRA adapter of rank 16 over all linear layers of a checkpoint."""
    import peft
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        model = getattr(transformers, config.architectures[0])._from_config(config, dtype=torch.bfloat16)
    made = peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules="all-linear"))
    state = {key: torch.zeros(value.shape) for key, value in peft.get_peft_model_state_dict(made).items()}
    made.peft_config["default"].save_pretrained(folder)
    save_file(state, folder / "adapter_model.safetensors")


def to_bin(folder: Path) -> None:
    """Turn the safetensors of a folder into ``.bin`` files."""
    import torch

    for path in folder.glob("*.safetensors"):
        torch.save(load_file(path), folder / bin_name(path.name))
        path.unlink()
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        content = json.loads(index.read_text())
        content["weight_map"] = {key: bin_name(name) for key, name in content["weight_map"].items()}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(content))
        index.unlink()


def bin_name(name: str) -> str:
    """Return a shard's name as ``.bin``."""
    return name.replace("model", "pytorch_model").replace(".safetensors", ".bin")


def run(folder: str, choices: dict[str, Any]) -> tuple[int, int]:
    """Return (predicted, observed) of a load in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps({"folder": folder, "choices": choices})]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    predicted, observed = json.loads(done.stdout.splitlines()[-1])
    return predicted, observed


def measure(folder: str, choices: dict[str, Any]) -> None:
    """Load in this process and print what was predicted and observed, above what it held when placing began."""
    import nbloader
    from nbloader._progress import events

    job = nbloader.start(folder, **choices)
    job.result()
    foretold = next(event for event in job.events if isinstance(event, events.PeakPredicted))
    assert job.plan is not None
    base = foretold.bytes - job.plan.peak_memory
    assert job.state.observed_peak is not None
    print(json.dumps([job.plan.peak_memory, job.state.observed_peak - base]))


if __name__ == "__main__":
    main()
