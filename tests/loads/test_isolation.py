"""Other threads never notice: what a load changes for itself is for everybody else as if there were none."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from support import archs
from support.waiting import exit_code_of
from tqdm import tqdm
from transformers import initialization

import nbloader
from nbloader import LoadCancelled, LoadError, LoadJob
from nbloader._libraries.isolation import default_dtype, linspace_on_cpu, patched_on_this_thread

INITS = sorted(initialization.TORCH_INIT_FUNCTIONS)
LIBRARIES = ("", "transformers", "torch", "accelerate", "peft", "huggingface_hub", "bitsandbytes", "torchao")


def tied_model() -> Any:
    config = transformers.GPT2Config(vocab_size=8, n_positions=4, n_embd=4, n_layer=1, n_head=1)
    return transformers.GPT2LMHeadModel(config)


def is_tied(model: Any) -> bool:
    return model.lm_head.weight is model.transformer.wte.weight


def linspace_device() -> str:
    with torch.device("meta"):
        return str(torch.linspace(0, 1, 2).device.type)


def acting_inits() -> list[str]:
    """Return the initializers that change a tensor which carries transformers' mark of a loaded one."""
    loaded, needed, acting = torch.zeros(4, 4, 1), {"constant_": [1], "sparse_": [0.5]}, []
    loaded._is_hf_initialized = True  # type: ignore[attr-defined]
    for name in INITS:
        tensor = loaded if name == "dirac_" else loaded[..., 0]
        tensor.fill_(7)._is_hf_initialized = True
        acting += [name] * bool((getattr(torch.nn.init, name)(tensor, *needed.get(name, [])) != 7).any())
    return acting


PROBES: Mapping[str, Callable[[], Any]] = {
    "default dtype": torch.get_default_dtype,
    "zeros": lambda: torch.zeros(1).dtype,
    "tensor": lambda: torch.tensor([0.5]).dtype,
    "division": lambda: (torch.arange(3) / 2).dtype,
    "old tensor": lambda: torch.Tensor(1).dtype,
    "layer": lambda: [(weight.dtype, weight.device.type) for weight in torch.nn.Linear(1, 1).parameters()],
    "linspace": linspace_device,
    "attention": lambda: torch.nn.MultiheadAttention(2, 1).in_proj_weight.abs().sum().item() > 0,
    "linspace itself": lambda: torch.linspace,
    "filters": lambda: (id(warnings.filters), list(warnings.filters)),
    "showwarning": lambda: warnings.showwarning,
    "levels": lambda: [logging.getLogger(name).level for name in LIBRARIES],
    "environment": lambda: dict(os.environ),
    "signals": lambda: [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM, signal.SIGTERM)],
    "tqdm": lambda: (vars(tqdm)["__init__"], tqdm.__iter__, tqdm.monitor_interval, tqdm.write),
    "gradients": torch.is_grad_enabled,
    "threads": torch.get_num_threads,
}
# Each takes milliseconds.
RARE: Mapping[str, Callable[[], Any]] = {"ties": lambda: is_tied(tied_model()), "inits": acting_inits}


def differences(before: Mapping[str, Any], probes: Mapping[str, Callable[[], Any]]) -> list[str]:
    return [name for name, probe in probes.items() if probe() != before[name]]


@pytest.fixture
def switching() -> Iterator[None]:
    """Have threads take turns a hundred times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 100)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture
def loads(tmp_path: Path) -> list[dict[str, Any]]:
    """Loads of many kinds, as keyword arguments."""
    tied = archs.save(archs.build("gpt2 (tied)", n_layer=6), tmp_path / "tied", shards=3)
    llama = archs.save(archs.build("llama", num_hidden_layers=6), tmp_path / "llama")
    lora = archs.make_adapter(llama, tmp_path / "lora", str(llama))
    composite = archs.save(archs.build("llava (vision-language)"), tmp_path / "llava")
    in_bin = archs.save_bin(archs.build("llama"), tmp_path / "bin", 2, False)
    return [
        {"model": tied, "dtype": "bfloat16"},
        {"model": llama, "dtype": "float16"},
        {"model": in_bin, "dtype": "bfloat16"},
        {"model": composite, "dtype": "bfloat16"},
        {"model": llama, "dtype": "bfloat16", "adapter": str(lora), "merge_adapter": True, "force": True},
        {"model": tied, "dtype": "bfloat16", "auto_class": "AutoModelForSequenceClassification"},
        {"model": llama, "dtype": "bfloat16", "quantization": "8bit"},
        {"model": llama, "device_map": "auto", "dtype": "bfloat16"},
    ]


@pytest.mark.usefixtures("switching")
def test_no_probe_of_200_000_sees_a_load(loads: list[dict[str, Any]]) -> None:
    for choices in loads:  # what importing changes stays
        nbloader.load(**choices, progress=False, reload=True)
    every = {**PROBES, **RARE}
    before = {name: probe() for name, probe in every.items()}
    seen: Counter[str] = Counter()
    count, number = 0, 0
    while number < 50 or count < 200_000:
        job = nbloader.start(**loads[number % len(loads)], reload=True)
        rounds = 0
        while not job.done():
            probes = every if rounds % 20 == 0 else PROBES
            seen.update(differences(before, probes))
            count += len(probes)
            rounds += 1
        job.result()
        seen.update(differences(before, every))
        number += 1
    assert seen == {}


def itself() -> list[Any]:
    """Return the functions and attributes that a load replaces for its own thread."""
    patched = (sys.modules.get(name) for name in initialization.TORCH_MODULES_TO_PATCH)
    inits = [getattr(module, name, None) for module in patched for name in INITS]
    own = [torch.get_default_dtype, torch.nn.Module.register_parameter, transformers.modeling_utils.safe_open]
    return [*inits, *own, vars(torch.Tensor).get("__init__"), torch.nn.init.normal_.__module__]


@pytest.mark.parametrize("end", ["weights", "config", "tokenizer", "device", "metadata", "wrong"])
def test_after_a_load_that_ended_early_all_is_as_before(loads: list[dict[str, Any]], end: str) -> None:
    nbloader.load(**loads[0], progress=False)
    attributes = {name: vars(transformers.PreTrainedModel)[name] for name in ("tie_weights", "get_init_context")}
    attributes["initialize_weights"] = vars(transformers.PreTrainedModel)["initialize_weights"]
    own = itself()
    before = {name: probe() for name, probe in {**PROBES, **RARE}.items()}
    job = LoadJob(
        loads[0]["model"], nbloader.LoadOptions(dtype="bfloat16", extra={"nonsense": 1} if end == "wrong" else {})
    )

    def cancel(event: Any) -> None:
        if getattr(event, "stage", "") == end:
            job.cancel()

    job.subscribe(cancel)
    job.start()
    with pytest.raises((LoadCancelled, LoadError)):
        job.result()
    assert differences(before, {**PROBES, **RARE}) == []
    assert attributes == {name: vars(transformers.PreTrainedModel)[name] for name in attributes}
    assert own == itself()


def test_types_are_as_if_it_were_the_default() -> None:
    numbers = [[1.5, 2], [3, 4]]
    ways: list[Callable[[], torch.Tensor]] = [
        lambda: torch.zeros(2),
        lambda: torch.zeros(2, dtype=None),
        lambda: torch.zeros(2, dtype=torch.float32),
        lambda: torch.tensor(numbers),
        lambda: torch.tensor([1, 2]),
        lambda: torch.tensor(torch.ones(2, dtype=torch.float32).numpy()),
        lambda: torch.linspace(0, 1, 7),
        lambda: torch.arange(5),
        lambda: torch.arange(0, 1, 0.3),
        lambda: torch.full((2,), 0.1),
        lambda: torch.full((2,), 1),
        lambda: torch.arange(5) / 3,
        lambda: torch.arange(5).float() / 3,
        lambda: torch.arange(5).to(torch.float32),
        lambda: torch.arange(5).type(torch.float32),
        lambda: torch.arange(5).type_as(torch.ones(1, dtype=torch.float32)),
        lambda: torch.ones(3, dtype=torch.float32) * 2,
        lambda: torch.stack([torch.ones(1, dtype=torch.float32)] * 2),
        lambda: torch.sqrt(torch.arange(4)),
        lambda: torch.eye(2),
        lambda: torch.nn.Linear(2, 2).weight,
        lambda: torch.nn.LayerNorm(2).weight,
        lambda: torch.nn.Parameter(torch.zeros(2)),
        lambda: torch.zeros_like(torch.ones(2, dtype=torch.float32)),
        lambda: torch.ones(1).new_zeros(2),
        lambda: torch.Tensor([True, False]),
        lambda: torch.Tensor(2).fill_(0.1),
        lambda: torch.Tensor(numpy.linspace(0.1, 0.3, 2)),
        lambda: torch.Tensor([1.00390625 + 1e-9]),  # is not rounded twice
        lambda: torch.Tensor(torch.Size([2])).zero_(),
        lambda: torch.Tensor(),
        lambda: torch.FloatTensor([0.1]),
        lambda: torch.DoubleTensor([0.1]),
        lambda: torch.LongTensor([1]),
        lambda: torch.nn.Parameter(torch.FloatTensor(2).fill_(0.1)),
        lambda: torch.nn.Parameter(torch.Tensor(2).fill_(0.1)),
        lambda: torch.nn.Parameter(torch.tensor([0.1], dtype=torch.float32)),
        lambda: torch.nn.Buffer(torch.Tensor([True])),
    ]
    torch.set_default_dtype(torch.bfloat16)
    try:
        wanted = [way() for way in ways]
    finally:
        torch.set_default_dtype(torch.float32)
    with default_dtype(torch.bfloat16):
        assert torch.get_default_dtype() == torch.bfloat16
        made = [way() for way in ways]
    assert [tensor.dtype for tensor in made] == [tensor.dtype for tensor in wanted]
    same = [torch.equal(one, other) for one, other in zip(made, wanted, strict=True)]
    assert [index for index, is_same in enumerate(same) if not is_same and index != 20] == []


def test_only_one_thread_is_given_the_stand_in() -> None:
    class Owner:
        def method(self) -> str:
            return "original"

        @classmethod
        def of_class(cls) -> str:
            return cls.__name__

    original, elsewhere = vars(Owner)["method"], []
    with (
        patched_on_this_thread(Owner, "method", lambda self: "mine"),
        patched_on_this_thread(Owner, "of_class", lambda cls: f"my {cls.__name__}"),
    ):
        thread = threading.Thread(target=lambda: elsewhere.extend([Owner().method(), Owner.of_class()]))
        thread.start()
        thread.join()
        assert [Owner().method(), Owner.of_class(), *elsewhere] == ["mine", "my Owner", "original", "Owner"]
        kept = vars(Owner)["method"]
    assert vars(Owner)["method"] is original
    # Somebody who replaced it meanwhile puts back what was there then.
    Owner.method = kept  # type: ignore[method-assign]
    assert Owner().method() == "original"


def test_what_replaced_it_meanwhile_stays() -> None:
    class Owner:
        def method(self) -> str:
            return "original"

    with patched_on_this_thread(Owner, "method", lambda self: "mine"):
        Owner.method = lambda self: "theirs"  # type: ignore[method-assign]
    assert Owner().method() == "theirs"


def test_threads_that_replace_the_same_may_leave_in_any_order() -> None:
    class Owner:
        def method(self) -> str:
            return "original"

    original = vars(Owner)["method"]
    first, second = (patched_on_this_thread(Owner, "method", lambda self: "mine") for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert Owner().method() == "mine"
    second.__exit__(None, None, None)
    assert vars(Owner)["method"] is original


def test_what_was_replaced_for_a_moment_is_not_put_back() -> None:
    class Owner:
        def method(self) -> str:
            return "original"

    def passing(self: Any) -> str:
        return "theirs"

    original = vars(Owner)["method"]
    Owner.method = passing  # type: ignore[method-assign]
    with patched_on_this_thread(
        Owner, "method", lambda self: "mine", lasting=lambda found: original if found is passing else found
    ):
        assert Owner().method() == "mine"
    assert vars(Owner)["method"] is original


def test_in_a_forked_process_nothing_stands_in_for_threads_that_are_not_there() -> None:
    class Owner:
        def method(self) -> str:
            return "original"

    inside, go_on = threading.Event(), threading.Event()

    def stand_in() -> None:
        with patched_on_this_thread(Owner, "method", lambda self: "mine"):
            inside.set()
            go_on.wait(30)

    thread = threading.Thread(target=stand_in)
    thread.start()
    inside.wait(30)
    child = os.fork()
    if child == 0:
        said: list[str] = []
        for _ in range(3):  # one of which gets the number of the thread that is not there
            new = threading.Thread(target=lambda: said.append(Owner().method()))
            new.start()
            new.join(10)
        os._exit(said != ["original"] * 3)
    go_on.set()
    thread.join(30)
    assert exit_code_of(child) == 0


def test_linspace_has_values_while_a_model_is_built_without_memory() -> None:
    with torch.device("meta"), linspace_on_cpu():
        assert torch.linspace(0, 1, 3).tolist() == [0, 0.5, 1]
        assert torch.linspace(0, 1, 3, device="meta").is_meta
        assert torch.zeros(1).is_meta


def test_plain_loads_of_another_thread_are_told_and_hurt_nobody(tmp_path: Path) -> None:
    mine, theirs = (archs.save(archs.build("gpt2 (tied)", n_layer=4), tmp_path / name) for name in ("mine", "theirs"))
    nbloader.load(mine, progress=False)
    stop, wrong = threading.Event(), []

    def load_plainly() -> None:
        while not stop.is_set():
            model = transformers.GPT2LMHeadModel.from_pretrained(theirs, dtype="bfloat16")
            wrong.extend(["theirs"] * (not is_tied(model) or model.dtype != torch.bfloat16))

    stranger = threading.Thread(target=load_plainly, name="stranger")
    stranger.start()
    told = 0
    for number in range(20):
        dtype = ("float32", "float16")[number % 2]
        job = nbloader.start(mine, dtype=dtype, reload=True)
        model = job.result().model
        wrong.extend(["mine"] * (not is_tied(model)))
        wrong.extend(name for name, value in model.named_parameters() if str(value.dtype) != f"torch.{dtype}")
        wrong.extend(name for name, value in model.named_parameters() if value.is_meta)
        told += any(line.code == "stranger" and line.arguments["thread"] == "stranger" for line in job.state.log)
    stop.set()
    stranger.join()
    assert wrong == []
    assert told > 0
    assert torch.get_default_dtype() == torch.float32


def test_a_model_that_lacks_weights_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tied = archs.save(archs.build("gpt2 (tied)"), tmp_path)
    nbloader.load(tied, progress=False)
    monkeypatch.setattr(
        "nbloader._libraries.transformers.one_thread.original_tie_weights", lambda: lambda model, **settings: None
    )
    with pytest.raises(LoadError, match=r"1 weights of .* were not loaded, such as lm_head.weight"):
        nbloader.load(tied, progress=False, reload=True)
