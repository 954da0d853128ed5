"""Real loads of real checkpoints: what comes out, and what is told meanwhile."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support import archs
from support.compare import differences, tensor_differences
from support.page_cache import make_cold
from support.waiting import all_at_once, wait_for
from tqdm import tqdm

import nbloader
from nbloader import LoadCancelled, LoadError
from nbloader._progress import events
from nbloader._system.page_cache import resident_bytes
from nbloader._views import terminal


def resident_share(folder: Path) -> float:
    total = resident = 0
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            size = os.path.getsize(path)
            resident += resident_bytes(file.fileno(), 0, size) or 0
            total += size
    return resident / total


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", archs.ARCHITECTURES)
def test_every_tensor_equals_plain_from_pretrained(name: str, dtype: str, tmp_path: Path) -> None:
    import torch
    import transformers

    folder = archs.save(archs.build(name), tmp_path, shards=3)
    plain = getattr(transformers, archs.ARCHITECTURES[name][2]).from_pretrained(folder, dtype=dtype)
    job = nbloader.start(folder, dtype=dtype)
    loaded = job.result()
    assert torch.get_default_dtype() == torch.float32
    assert type(loaded.model) is type(plain)
    assert differences(loaded.model, plain) == []
    state = job.state
    assert state.fraction == 1
    assert state.bytes_read == state.bytes_to_read > 0
    assert state.bytes_placed == state.bytes_to_place > 0
    assert len(state.shards) >= 3


@pytest.mark.parametrize(("shards", "legacy"), [(1, False), (3, False), (1, True)])
def test_bin_checkpoints_load(shards: int, legacy: bool, tmp_path: Path) -> None:
    model = archs.build("llama")
    job = nbloader.start(archs.save_bin(model, tmp_path, shards, legacy))
    assert tensor_differences(job.result().model, model) == []
    assert job.plan is not None
    assert job.plan.format == "bin"
    state = job.state
    assert state.bytes_placed == state.bytes_to_place >= sum(tensor.nbytes for tensor in model.parameters())
    assert state.bytes_read == state.bytes_to_read


def test_minilm_puts_like_sentences_together(minilm: Path) -> None:
    import torch

    model, tokenizer = nbloader.load(minilm, progress=False)
    sentences = ["A cat sleeps on the sofa.", "A kitten is napping on the couch.", "The stock market fell sharply."]
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.5
    assert likeness[0, 2] < 0.2


def test_a_cast_places_bytes_of_the_new_type(demo_small: Path) -> None:
    import torch

    job = nbloader.start(demo_small, dtype="float32")
    model = job.result().model
    assert model.dtype == torch.float32
    assert job.state.bytes_to_read < job.state.bytes_placed
    assert job.state.bytes_placed == sum(parameter.nbytes for parameter in model.parameters())


def test_modules_kept_in_another_type_correct_the_plan(tmp_path: Path) -> None:
    folder = archs.save(archs.build("t5 (encoder-decoder)"), tmp_path)
    job = nbloader.start(folder, dtype="float16")
    model = job.result().model
    names = {str(parameter.dtype) for parameter in model.parameters()}
    assert names == {"torch.float16", "torch.float32"}
    stored = sum(p.nbytes for name, p in model.named_parameters() if name != "lm_head.weight")
    assert job.state.bytes_placed == job.state.bytes_to_place == stored


def test_ready_means_read(demo_1gb: Path) -> None:
    make_cold(demo_1gb)
    job = nbloader.start(demo_1gb)
    job.result()
    assert resident_share(demo_1gb) > 0.999
    assert sum(shard.bytes_resident for shard in job.state.shards) < 0.1 * job.state.bytes_read


def test_bytes_read_are_resident_all_along(demo_1gb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sendfile = os.sendfile

    def slow(out: int, fd: int, offset: int, count: int) -> int:
        """Read at some 800 MB/s in all, so that much is under way and the time that looking takes does not show."""
        done = 0
        while done < count:
            threading.Event().wait(0.04)
            done += sendfile(out, fd, offset + done, min(1 << 20, count - done))
        return done

    make_cold(demo_1gb)
    monkeypatch.setattr(os, "sendfile", slow)
    # With many more readers than processors, the thread that counts waits for the GIL, and is further behind.
    job = nbloader.start(demo_1gb, readers=16)
    samples: list[tuple[float, float, float]] = []
    while not job.done():
        before, state, after = resident_share(demo_1gb), job.state, resident_share(demo_1gb)
        if 0 < state.bytes_read < state.bytes_to_read:
            samples.append((before, state.bytes_read / state.bytes_to_read, after))
    assert len(samples) >= 10
    assert max(before - told for before, told, _ in samples) < 0.05, samples
    assert max(told - after for _, told, after in samples) < 0.01, samples


def test_bytes_placed_are_in_the_model_all_along(demo_1gb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    models = []
    original = transformers.LlamaForCausalLM.__init__

    def note(self: object, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)
        models.append(self)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "__init__", note)
    samples = []

    def compare(event: events.Event) -> None:
        if isinstance(event, events.Placed) and models:
            placed = sum(p.nbytes for p in models[-1].parameters() if p.device.type != "meta")
            samples.append((job.state.bytes_placed, placed))

    job = nbloader.LoadJob(demo_1gb, nbloader.LoadOptions(dtype="float32"))
    job.subscribe(compare)
    job.start().result()
    total = job.state.bytes_to_place
    assert len(samples) > 20
    assert max(abs(told - true) / total for told, true in samples) < 0.1


def test_a_checkpoint_of_ten_thousand_tensors_makes_few_events(tmp_path: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1112, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    job = nbloader.start(archs.save(model, tmp_path, shards=3))
    job.result()
    assert job.plan is not None
    assert job.plan.tensors > 10_000
    assert job.state.bytes_placed == job.state.bytes_to_place
    assert len(job.events) < 60 + 60 * job.state.elapsed


def test_the_tokenizer_is_the_processor_where_there_is_one(tmp_path: Path, demo_small: Path) -> None:
    import transformers

    folder = archs.save(archs.build("clip"), tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_small)
    image = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    transformers.CLIPProcessor(image, tokenizer).save_pretrained(folder)
    made = nbloader.load(folder, progress=False).tokenizer
    assert type(made).__name__ == "CLIPProcessor"
    assert made(text=["hello"])["input_ids"]


def test_an_image_processor_stands_alone(tmp_path: Path) -> None:
    import transformers

    folder = archs.save(archs.build("vit (images)"), tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    assert "ImageProcessor" in type(nbloader.load(folder, progress=False).tokenizer).__name__


def test_no_tokenizer_is_none_and_said(tmp_path: Path) -> None:
    job = nbloader.start(archs.save(archs.build("llama"), tmp_path))
    assert job.result().tokenizer is None
    assert "no_tokenizer" in [line.code for line in job.state.log]


def test_the_class_can_be_named(tmp_path: Path) -> None:
    folder = archs.save(archs.build("bert masked LM"), tmp_path)
    assert type(nbloader.load(folder, progress=False, auto_class="AutoModel").model).__name__ == "BertModel"
    job = nbloader.start(folder, auto_class="AutoModelForTokenClassification")
    assert type(job.result().model).__name__ == "BertForTokenClassification"
    assert "missing_keys" in [line.code for line in job.state.log]


def test_a_subfolder_loads_with_the_tokenizer_above_it(tmp_path: Path, demo_small: Path) -> None:
    archs.save(archs.build("llama"), tmp_path / "deep")
    archs.copy_tokenizer(demo_small, tmp_path)
    model, tokenizer = nbloader.load(tmp_path, progress=False, subfolder="deep")
    assert model.config.model_type == "llama"
    assert tokenizer.decode(tokenizer("a b").input_ids) == "a b"


def test_the_callback_keeps_its_contract(demo_small: Path) -> None:
    told: list[dict[str, object]] = []
    nbloader.load(demo_small, progress=False, progress_callback=told.append)
    first = {}
    for step in told:
        assert set(step) == {"status", "message", "progress"}
        first.setdefault(step["status"], step["progress"])
    order = [
        ("loading_tokenizer", 10), ("tokenizer_loaded", 20), ("loading_model", 25), ("model_loaded", 85),
        ("moving_to_device", 90), ("metadata_extracted", 95), ("complete", 100),
    ]  # fmt: skip
    assert list(first.items()) == order
    values = [step["progress"] for step in told]
    assert values == sorted(values)  # type: ignore[type-var]


def test_the_callback_is_told_of_failure_with_the_last_progress(tmp_path: Path) -> None:
    told: list[dict[str, object]] = []
    folder = archs.save(archs.build("llama"), tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(LoadError):
        nbloader.load(folder, progress=False, progress_callback=told.append, tokenizer=True)
    assert told[-1]["status"] == "error"
    assert told[-1]["progress"] == told[-2]["progress"] == 10


def test_a_failing_callback_never_ends_a_load(demo_small: Path) -> None:
    calls = []

    def fail(step: object) -> None:
        calls.append(step)
        raise RuntimeError("mine")

    job = nbloader.start(demo_small, progress_callback=fail)
    assert job.result().model is not None
    assert len(calls) == 1
    assert [line.code for line in job.state.log].count("callback_failed") == 1


def test_bars_are_silent_for_this_load_alone(demo_small: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging as transformers_logging

    seen = []

    def mine(factory: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        seen.append(kwargs.get("desc"))
        return factory(*args, **{**kwargs, "disable": True})  # type: ignore[operator]

    previous = transformers_logging.set_tqdm_hook(mine)
    try:
        inside: list[object] = []

        def from_another_thread(event: events.Event) -> None:
            if isinstance(event, events.Placed) and not inside:
                thread = threading.Thread(
                    target=lambda: inside.append(list(transformers_logging.tqdm([1], desc="other")))
                )
                thread.start()
                thread.join()

        job = nbloader.start(demo_small)
        job.subscribe(from_another_thread)
        job.result()
        assert inside == [[1]]
        assert seen == ["other"]
        assert transformers_logging.set_tqdm_hook(mine) is mine
    finally:
        transformers_logging.set_tqdm_hook(previous)
    assert "Loading weights" not in capfd.readouterr().err


def test_warnings_of_transformers_go_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = archs.save(archs.build("bert"), tmp_path)
    handlers = [list(handler.filters) for handler in logging.getLogger("transformers").handlers]
    job = nbloader.start(folder, auto_class="AutoModelForMaskedLM")
    job.result()
    assert "missing_keys" in [line.code for line in job.state.log]
    assert "LOAD REPORT" not in capfd.readouterr().err
    assert [list(handler.filters) for handler in logging.getLogger("transformers").handlers] == handlers


STAGES = [name for name in events.STAGES if name not in (*events.NOT_ALWAYS, "download")]


@pytest.mark.parametrize("stage", STAGES)
def test_cancel_in_each_stage(stage: str, demo_small: Path) -> None:
    def cancel(event: events.Event) -> None:
        if isinstance(event, events.StageStarted) and event.stage == stage:
            job.cancel()

    job = nbloader.LoadJob(demo_small, nbloader.LoadOptions())
    job.subscribe(cancel)
    job.start()
    with pytest.raises(LoadCancelled):
        job.result(60)
    assert job.state.status == "cancelled"
    assert nbloader.load(demo_small, progress=False).model is not None


def test_a_cancelled_import_is_left_behind() -> None:
    """In a fresh process, where importing torch takes seconds and cannot be interrupted."""
    code = """
import nbloader, sys, threading
from nbloader._progress import events
from nbloader._registry import models as registry
job = nbloader.LoadJob(sys.argv[1], nbloader.LoadOptions())
def cancel(event):
    if isinstance(event, events.StageStarted) and event.stage == "imports":
        job.cancel()
job.subscribe(cancel)
registry.submit(job)
try:
    job.result()
except nbloader.LoadCancelled:
    print(job.state.status, "nbloader-load" in [thread.name for thread in threading.enumerate()])
print(type(nbloader.load(sys.argv[1], progress=False).model).__name__)
"""
    folder = nbloader.demo_checkpoint("1MB", shards=2)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["cancelled", "True", "LlamaForCausalLM"], done.stderr
    assert done.returncode == 0, done.stderr


def test_writing_the_demo_is_a_stage_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    job = nbloader.LoadJob("demo", nbloader.LoadOptions())
    job.subscribe(lambda event: job.cancel() if getattr(event, "stage", "") == "demo" else None)
    job.start()
    with pytest.raises(LoadCancelled):
        job.result()
    wait_for(lambda: not list((tmp_path / "nbloader").glob("*")))
    for expected in ("demo", "resolve"):
        job = nbloader.start("demo", reload=True)
        job.result()
        assert next(stage.name for stage in job.state.stages if stage.ended is not None) == expected


def test_a_torch_that_another_thread_imports_is_left_alone() -> None:
    """Half of torch, called from here, would wait for the rest while it holds what the importing thread needs."""
    code = """
import sys, threading
import nbloader
from nbloader._system import memory
inside, done = threading.Event(), threading.Event()
def hold(event, arguments):  # no finder: one that waits keeps every thread from importing anything
    is_torch = event == "import" and arguments[0].startswith("torch.") and threading.current_thread().name == "importer"
    if is_torch and hasattr(sys.modules["torch"], "get_default_device"):
        inside.set()
        done.wait(60)
sys.addaudithook(hold)
threading.Thread(target=__import__, args=("torch",), name="importer", daemon=True).start()
assert inside.wait(60)
memory.sample_memory(), memory.free_devices(), memory.release_memory()
job = nbloader.start(sys.argv[1])
print(done.is_set())
done.set()
print(type(job.result().model).__name__)
"""
    folder = nbloader.demo_checkpoint("1MB", shards=2)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False", "LlamaForCausalLM"], done.stderr


def test_an_interrupt_while_waiting_cancels(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = nbloader.LoadJob(demo_small, nbloader.LoadOptions()).start()
    real = job._ending.done.wait

    def interrupted(timeout: float | None = None) -> bool:
        monkeypatch.setattr(job._ending.done, "wait", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(job._ending.done, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.result()
    assert job.state.status in {"cancelled", "ready"}
    assert job.done()


def test_a_timeout_leaves_the_load_running(demo_small: Path) -> None:
    job = nbloader.start(demo_small)
    with pytest.raises(TimeoutError):
        job.result(0)
    assert job.result().model is not None


def test_two_loads_wait_for_each_other(demo_small: Path) -> None:
    jobs = [nbloader.start(demo_small, dtype=dtype, keep="all") for dtype in ("float32", "bfloat16", "float16")]
    dtypes = [str(job.result().model.dtype) for job in jobs]
    assert dtypes == ["torch.float32", "torch.bfloat16", "torch.float16"]
    assert any(isinstance(event, events.Queued) for job in jobs for event in job.events)


def test_every_waiter_gets_its_own_exception(tmp_path: Path) -> None:
    job = nbloader.start(tmp_path / "nowhere")
    caught = []
    for _ in range(2):
        with pytest.raises(nbloader.SourceError) as info:
            job.result()
        caught.append(info.value)
    assert caught[0] is not caught[1]
    assert str(caught[0]) == str(caught[1])
    assert caught[0].__cause__ is None
    assert "Traceback" in caught[0].details


def test_tokenizers_parallelism_is_set_unless_the_user_set_it() -> None:
    code = "import os, nbloader; print(os.environ['TOKENIZERS_PARALLELISM'])"
    for given, expected in ((None, "false"), ("true", "true")):
        env = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
        env |= {"TOKENIZERS_PARALLELISM": given} if given else {}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_no_fork_warning_after_a_load(demo_small: Path) -> None:
    code = (
        "import nbloader, subprocess, sys\n"
        "loaded = nbloader.load(sys.argv[1], progress=False)\n"
        "loaded.tokenizer(['a b c'] * 100)\n"
        "import os\n"
        "if os.fork() == 0: loaded.tokenizer(['a b c'] * 100); os._exit(0)\n"
        "os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(demo_small)], capture_output=True, text=True, check=True)
    assert "parallelism" not in done.stderr


def test_a_callback_may_ask_for_the_result(demo_small: Path) -> None:
    got: list[object] = []
    job = nbloader.LoadJob(demo_small, nbloader.LoadOptions())

    def ask(event: events.Event) -> None:
        if isinstance(event, events.Ready):
            got.append(job.result().model)

    job.subscribe(ask)
    assert job.start().result(60).model is got[0]


def test_a_callback_that_exits_never_ends_a_load(demo_small: Path) -> None:
    def leave(event: events.Event) -> None:
        raise SystemExit

    job = nbloader.LoadJob(demo_small, nbloader.LoadOptions())
    job.subscribe(leave)
    assert job.start().result(60).model is not None


def test_a_broken_accelerator_never_ends_a_load(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    monkeypatch.setattr(torch.cuda, "empty_cache", broken)
    assert nbloader.load(demo_small, progress=False).model is not None
    with pytest.raises(LoadError):
        nbloader.load(demo_small / "nowhere", progress=False)


def test_an_interrupt_of_the_bar_cancels(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    job = nbloader.start(demo_small)
    monkeypatch.setattr(terminal, "_draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        terminal.show_bar(job)
    assert job.state.cancelling


@pytest.mark.parametrize("at", [1, 2])  # while the bar is made, and while it is drawn
def test_an_interrupt_while_the_bar_is_drawn_leaves_bars_to_others(
    at: int, demo_small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    display, count = tqdm.display, 0

    def interrupt(*arguments: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        return display(*arguments, **more)

    job = nbloader.start(demo_small, reload=True)
    with monkeypatch.context() as patch:
        patch.setattr(tqdm, "display", interrupt)
        with pytest.raises(KeyboardInterrupt):
            terminal.show_bar(job)
    assert job.state.cancelling
    (model,) = all_at_once(1, lambda number: nbloader.load(demo_small).model)
    assert model is not None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bart (encoder-decoder)", "BartForConditionalGeneration"),
        ("t5 (encoder-decoder)", "T5ForConditionalGeneration"),
        ("bert", "BertModel"),
        ("llama", "LlamaForCausalLM"),
        ("vit (images)", "ViTModel"),
    ],
)
@pytest.mark.parametrize("architectures", [None, ["Unheard"], 5, "LlamaForCausalLM"])
def test_a_class_is_guessed_where_the_config_names_none(
    name: str, expected: str, architectures: object, tmp_path: Path
) -> None:
    folder = archs.save(archs.build(name), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    job = nbloader.start(folder)
    assert type(job.result().model).__name__ == expected
    assert "guessed_class" in [line.code for line in job.state.log]
