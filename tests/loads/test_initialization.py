"""Weights that were loaded are never initialized again, by whatever function a model class does that.

What plain ``from_pretrained`` gives is what is expected; functions and methods are those that the libraries have.
"""

from __future__ import annotations

import ast
import inspect
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.compare import differences
from support.waiting import wait_for
from transformers import initialization

import nbloader

NEEDED = {"val": 0.5, "sparsity": 0.5}
SEVEN = torch.tensor([7.0])
SHAPES = {"dirac_": (4, 4, 3), "dirac": (4, 4, 3)}


def public_functions(module: Any) -> list[str]:
    """Return the functions of a module that fill a tensor."""
    functions = {name: found for name, found in vars(module).items() if inspect.isfunction(found)}
    return sorted(name for name in functions if name.endswith("_") and not name.startswith("_"))


def used_in_init_weights() -> list[str]:
    """Return the in-place methods of tensors that some class of transformers calls to initialize its weights."""
    found = set()
    for path in Path(transformers.__file__).parent.glob("models/*/modeling_*.py"):
        for method in ast.walk(ast.parse(path.read_text())):
            if isinstance(method, ast.FunctionDef) and method.name == "_init_weights":
                called = (node.func for node in ast.walk(method) if isinstance(node, ast.Call))
                attributes = (called for called in called if isinstance(called, ast.Attribute))
                found |= {
                    called.attr
                    for called in attributes
                    if called.attr.endswith("_") and hasattr(torch.Tensor, called.attr)
                }
    return sorted(found)


class Config(transformers.PretrainedConfig):
    model_type = "initialized"

    def __init__(self, shape: tuple[int, ...] = (4, 4), **settings: Any) -> None:
        super().__init__(**settings)
        self.shape = list(shape)


Fill = Callable[[torch.Tensor], Any]


class Model(transformers.PreTrainedModel):
    """A model with a weight that its checkpoint has, and one that it has not."""

    config_class = Config
    fill: Fill = staticmethod(lambda tensor: tensor)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.loaded = torch.nn.Parameter(torch.ones(config.shape))
        self.fresh = torch.nn.Parameter(torch.ones(config.shape))
        self.counted = torch.nn.Buffer(torch.ones(config.shape))
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        if module is self:
            for tensor in (self.loaded, self.fresh, self.counted):
                self.fill(tensor)


def check(fill: Fill, folder: Path, shape: tuple[int, ...], but: str = "-") -> Any:
    """Load by both ways a checkpoint that lacks one weight, with a class that initializes all by `fill`.

    All has to be equal but the tensor `but`.
    """
    Model(Config(shape)).save_pretrained(
        folder, state_dict={"loaded": torch.full(shape, 7.0), "counted": torch.full(shape, 8.0)}
    )
    kind = type("Model", (Model,), {"fill": staticmethod(fill)})
    torch.manual_seed(0)
    plain = kind.from_pretrained(folder)
    torch.manual_seed(0)
    model = nbloader.load(folder, auto_class=kind, progress=False).model
    assert [found for found in differences(model, plain) if not found.startswith(but)] == []
    return model


INITIALIZERS = [
    pytest.param(module, name, id=f"{module.__name__}.{name}")
    for module in (torch.nn.init, initialization)
    for name in public_functions(module)
]


@pytest.mark.parametrize("by", ["position", "keyword"])
@pytest.mark.parametrize(("module", "name"), INITIALIZERS)
def test_each_initializer_leaves_what_was_loaded(module: Any, name: str, by: str, tmp_path: Path) -> None:
    shape = SHAPES.get(name, (4, 4))

    def fill(tensor: torch.Tensor) -> None:
        function = getattr(module, name)
        parameters = inspect.signature(function).parameters.values()
        needed = {each.name: NEEDED.get(each.name) for each in parameters if each.default is inspect.Parameter.empty}
        first, *others = needed
        given = {other: torch.full(shape, 0.5) if needed[other] is None else needed[other] for other in others}
        with torch.no_grad():
            function(tensor, *given.values()) if by == "position" else function(**{first: tensor, **given})

    model = check(fill, tmp_path, shape)
    assert torch.equal(model.loaded, torch.full(shape, 7.0))


@pytest.mark.parametrize("way", ["on the parameter", "on its data", "by an index"])
@pytest.mark.parametrize("name", used_in_init_weights())
def test_each_method_in_place_does_what_it_does_in_plain(name: str, way: str, tmp_path: Path) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "copy_": (torch.full((4, 4), 0.5),), "fill_": (0.5,), "mul_": (0.5,), "clamp_": (0.1, 0.5), "add_": (0.5,),
        "div_": (2,), "sub_": (0.5,), "pow_": (2,), "bernoulli_": (0.5,), "requires_grad_": (),
    }  # fmt: skip

    def fill(tensor: torch.Tensor) -> None:
        with torch.no_grad():
            target = {"on the parameter": tensor, "on its data": tensor.data, "by an index": tensor[:]}[way]
            getattr(target, name)(*arguments.get(name, ()))

    check(fill, tmp_path, (4, 4), but="fresh")  # which holds what its memory held, changed in place


def is_in(thread: threading.Thread, name: str) -> bool:
    """Return whether a thread is inside of a function of that name."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None


def replaced() -> list[str]:
    """Return the initializers of torch that are not as they were."""
    return [
        name for name, own in initialization.TORCH_INIT_FUNCTIONS.items() if getattr(torch.nn.init, name) is not own
    ]


@pytest.fixture
def stranger() -> Any:
    """A thread that initializes a model of its own, and an event that it waits for in the middle of it."""
    go_on, inside = threading.Event(), threading.Event()

    def fill(tensor: torch.Tensor) -> None:
        inside.set()
        go_on.wait(30)

    kind = type("Model", (Model,), {"fill": staticmethod(fill)})

    def start() -> None:
        thread.start()
        inside.wait(30)

    thread = threading.Thread(target=lambda: kind(Config()))
    yield thread, start, go_on
    go_on.set()
    thread.join(30)


def save(folder: Path) -> Path:
    weights = {"loaded": torch.full((4, 4), 7.0), "counted": torch.full((4, 4), 8.0)}
    Model(Config()).save_pretrained(folder, state_dict=weights)
    return folder


def test_a_thread_that_was_initializing_a_model_takes_no_guard_away(stranger: Any, tmp_path: Path) -> None:
    thread, start, go_on = stranger

    def fill(tensor: torch.Tensor) -> None:
        thread.join(30)  # by then it has put back what it replaced
        torch.nn.init.normal_(tensor)

    folder = save(tmp_path)
    start()
    job = nbloader.start(folder, auto_class=type("Model", (Model,), {"fill": staticmethod(fill)}))
    wait_for(lambda: any(is_in(each, "initialize_weights") for each in threading.enumerate() if each is not thread))
    go_on.set()
    assert torch.equal(job.result().model.loaded, torch.full((4, 4), 7.0))
    assert replaced() == []


def test_a_thread_may_run_code_that_cannot_be_hashed(tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def run() -> None:
        inside.set()
        go_on.wait(30)

    run.__code__ = run.__code__.replace(co_consts=(*run.__code__.co_consts, {}))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hash(run.__code__)
    thread = threading.Thread(target=run)
    thread.start()
    inside.wait(30)
    try:
        assert torch.equal(nbloader.load(save(tmp_path), auto_class=Model, progress=False).model.loaded[0, :1], SEVEN)
    finally:
        go_on.set()
        thread.join(30)


def test_a_third_thread_lets_the_load_wait_all_the_same(stranger: Any, tmp_path: Path) -> None:
    thread, start, go_on = stranger

    def fill(tensor: torch.Tensor) -> None:
        thread.join(30)
        torch.nn.init.normal_(tensor)

    folder = save(tmp_path)
    start()
    job = nbloader.start(folder, auto_class=type("Model", (Model,), {"fill": staticmethod(fill)}))
    wait_for(lambda: any(is_in(each, "guarded") for each in threading.enumerate() if each is not thread))
    third = threading.Thread(target=lambda: Model(Config()))
    third.start()
    wait_for(lambda: is_in(third, "guarded") or not third.is_alive())
    go_on.set()
    assert torch.equal(job.result().model.loaded, torch.full((4, 4), 7.0))
    third.join(30)
    assert replaced() == []


def test_a_thread_that_initializes_a_model_meanwhile_leaves_nothing_behind(stranger: Any, tmp_path: Path) -> None:
    thread, start, go_on = stranger
    building, begun = threading.Event(), threading.Event()

    def fill(tensor: torch.Tensor) -> None:
        building.set()
        begun.wait(30)
        torch.nn.init.normal_(tensor)

    folder = save(tmp_path)
    job = nbloader.start(folder, auto_class=type("Model", (Model,), {"fill": staticmethod(fill)}))
    building.wait(30)
    start()
    begun.set()
    assert torch.equal(job.result().model.loaded, torch.full((4, 4), 7.0))
    go_on.set()
    thread.join(30)
    assert replaced() == []
