"""In a real ipykernel: cells, interrupts, awaits."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support.hub import Hub, Repo
from support.kernel import Notebook, notebook


@pytest.fixture(scope="module")
def shared() -> Iterator[Notebook]:
    with notebook() as started:
        started.run("from nbloader import LoaderWidget, LoadCancelled, LoadError\nimport time")
        yield started


def stalled_repo(hub: Hub, folder: Path) -> Repo:
    hub.repos["us/demo"] = Repo.of_folder(folder, stall="model-00002-of-00004.safetensors")
    return hub.repos["us/demo"]


def test_show_then_result_in_a_later_cell(shared: Notebook, demo_small: Path) -> None:
    took = shared.run(
        f"t = time.perf_counter(); w = LoaderWidget({str(demo_small)!r}).show(); print(time.perf_counter() - t)"
    )
    assert float(took.splitlines()[-1]) < 5
    assert "LlamaForCausalLM" in shared.run("model, tokenizer = w.result(); print(type(model).__name__)")
    assert shared.run("print(w.state.status, w.state.fraction)").split() == ["ready", "1.0"]


def test_prints_of_a_load_do_not_land_in_a_cell(shared: Notebook, demo_small: Path) -> None:
    shared.run(f"w = LoaderWidget({str(demo_small)!r}).show()")
    assert shared.run("w.result(); print('mine')") == "mine\n"


def test_await_in_a_cell(shared: Notebook, demo_small: Path) -> None:
    code = f"model, tokenizer = await LoaderWidget({str(demo_small)!r}).show(); print(model.dtype)"
    assert "torch.bfloat16" in shared.run(code)


def test_the_interrupt_button_cancels_while_result_waits(
    shared: Notebook, hub: Hub, demo_small: Path, tmp_path: Path
) -> None:
    repo = stalled_repo(hub, demo_small)
    shared.run(f"w = LoaderWidget('us/demo', cache_dir={str(tmp_path)!r}).show()")
    cell = shared.begin("print('waiting', flush=True); w.result()")
    shared.wait_for_print(cell, "waiting")
    assert repo.stalled.wait(30)
    shared.manager.interrupt_kernel()
    _, error = shared.finish(cell)
    assert error is not None
    assert error.startswith("KeyboardInterrupt")
    assert shared.run("print(w.state.status)") == "cancelled\n"


def test_the_interrupt_button_cancels_an_await(shared: Notebook, hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = stalled_repo(hub, demo_small)
    cell = shared.begin(f"w = LoaderWidget('us/demo', cache_dir={str(tmp_path)!r}).show(); await w")
    assert repo.stalled.wait(30)
    shared.manager.interrupt_kernel()
    _, error = shared.finish(cell)
    assert error is not None
    status = ""
    until = time.monotonic() + 10
    while status != "cancelled\n" and time.monotonic() < until:
        status = shared.run("print(w.state.status)")
    assert status == "cancelled\n"


def test_errors_are_raised_in_the_cell_that_waits(shared: Notebook, tmp_path: Path) -> None:
    shared.run(f"w = LoaderWidget({str(tmp_path)!r}).show()")
    _, error = shared.finish(shared.begin("w.result()"))
    assert error is not None
    assert error.startswith("CheckpointError")
    assert "has no config.json" in error


def test_show_as_the_last_line_paints_one_panel(shared: Notebook, demo_small: Path) -> None:
    cell = shared.begin(f"LoaderWidget({str(demo_small)!r}).show()")
    panels = 0
    while True:
        message = shared.client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != cell:
            continue
        data = message["content"].get("data", {})
        panels += message["msg_type"] in {"display_data", "execute_result"} and (
            "application/vnd.jupyter.widget-view+json" in data
        )
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
    assert panels == 1
    assert "widget-view" not in shared.run("1")


def test_a_kernel_that_shuts_down_in_mid_load_ends(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = stalled_repo(hub, demo_small)
    with notebook() as fresh:
        fresh.run(f"from nbloader import LoaderWidget; w = LoaderWidget('us/demo', cache_dir={str(tmp_path)!r}).show()")
        assert repo.stalled.wait(60)
        repo.release.set()
        fresh.manager.shutdown_kernel()
        assert not fresh.manager.is_alive()


def test_what_a_notebook_holds_is_named(shared: Notebook, demo_small: Path) -> None:
    shared.run(f"import nbloader; m = nbloader.load({str(demo_small)!r}, progress=False).model")
    shared.run("m")
    told = shared.run("freed = nbloader.unload(); print(freed)")
    assert "m still refers to the model" in told
    assert "Out[" in told
    assert "%reset -f out" in told
    again = f"nbloader.load({str(demo_small)!r}, progress=False)"
    shared.run(f"del m; get_ipython().run_line_magic('reset', '-f out'); m = {again}.model")
    shared.run("import weakref; ref = weakref.ref(m); del m")
    assert shared.run("import gc; gc.collect(); print(ref())").strip() == "None"


def test_the_last_error_is_named(shared: Notebook, demo_small: Path) -> None:
    shared.run(
        f"def fail():\n    held = nbloader.load({str(demo_small)!r}, progress=False, reload=True).model\n    1 / 0"
    )
    shared.finish(shared.begin("fail()"))
    assert "The last error" in shared.run("print(nbloader.unload())")


def test_a_notebook_that_is_run_without_a_page_tells_how_it_goes_and_keeps_how_it_ended(demo_small: Path) -> None:
    cells = [f"from nbloader import LoaderWidget\nw = LoaderWidget({str(demo_small)!r}).show()", "w.result()\nNone"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120).execute()
    panel, *_ = notebook.cells[0].outputs
    assert set(panel.data) == {"text/html", "text/plain"}
    assert "✓ Ready" in panel.data["text/html"]
    assert panel.data["text/plain"].endswith("ready")
    text = "".join(output.text for output in notebook.cells[1].outputs if output.output_type == "stream")
    assert "100%" in text
    assert "Importing torch, transformers" in text


def test_papermill_runs_it(demo_small: Path, tmp_path: Path) -> None:
    cells = [
        "model = None",
        "import nbloader\nw = nbloader.LoaderWidget(model).show()",
        "print(w.result().model.dtype)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    command = ["papermill", "in.ipynb", "out.ipynb", "-p", "model", str(demo_small), "--log-output"]
    done = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Importing torch, transformers" in done.stderr
    assert "torch.bfloat16" in done.stderr
    kept = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert "✓ Ready" in kept.cells[2].outputs[0].data["text/html"]
