"""What libraries print on the loading thread goes to the log; everybody else's output stays where it is."""

from __future__ import annotations

import ast
import io
import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from support import archs

import nbloader
from nbloader._libraries.output import captured, uncaptured


def replace_streams(monkeypatch: pytest.MonkeyPatch) -> tuple[io.StringIO, io.StringIO]:
    """Put other streams in the place of pytest's, within a test."""
    streams = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    return streams


def speak(who: str) -> None:
    """Say something in every way."""
    print(f"{who} prints")
    print(f"{who} complains", file=sys.stderr)
    sys.stdout.write(f"{who} writes ")
    sys.stdout.write("in pieces\n")
    logging.getLogger("some.library").warning("%s logs", who)
    warnings.warn(f"{who} warns", UserWarning, stacklevel=1)


def test_this_threads_output_is_told_by_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = replace_streams(monkeypatch)
    told: list[tuple[str, str]] = []
    handler = logging.StreamHandler(streams[1])
    logging.getLogger("some.library").addHandler(handler)
    with captured(lambda level, line: told.append((level, line))):
        speak("it")
    logging.getLogger("some.library").removeHandler(handler)
    assert told == [
        ("info", "it prints"),
        ("info", "it complains"),
        ("info", "it writes in pieces"),
        ("warning", "it logs"),
        ("warning", "UserWarning: it warns"),
    ]
    assert [stream.getvalue() for stream in streams] == ["", ""]


@pytest.mark.parametrize("where", ["another thread", "a function of the user's", "afterwards"])
def test_other_output_stays_where_it_is(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = replace_streams(monkeypatch)
    handler = logging.StreamHandler(streams[1])
    logging.getLogger("some.library").addHandler(handler)
    told: list[str] = []
    try:
        with captured(lambda level, line: told.append(line)):
            if where == "another thread":
                thread = threading.Thread(target=speak, args=["it"])
                thread.start()
                thread.join()
            elif where == "a function of the user's":
                with uncaptured():
                    speak("it")
        if where == "afterwards":
            speak("it")
    finally:
        logging.getLogger("some.library").removeHandler(handler)
    assert told == []
    assert streams[0].getvalue() == "it prints\nit writes in pieces\n"
    assert all(word in streams[1].getvalue() for word in ("it complains", "it logs"))


def test_a_handler_made_meanwhile_writes_to_the_stream_later(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = replace_streams(monkeypatch)
    logger, told = logging.getLogger("made.meanwhile"), []
    with captured(lambda level, line: told.append(line)):
        handler = logging.StreamHandler()
        logger.addHandler(handler)
    logger.warning("later")
    logger.removeHandler(handler)
    assert (told, streams[1].getvalue()) == ([], "later\n")


def test_what_goes_to_no_stream_is_not_told_and_other_handlers_have_their_records() -> None:
    told: list[str] = []
    silent, kept = logging.getLogger("silent.library"), logging.getLogger("kept.library")
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    kept.addHandler(handler)
    with captured(lambda level, line: told.append(line)):
        silent.warning("nobody would see this")
        kept.warning("two\nlines")
        logging.getLogger("bare.library").info("below the level")
    kept.removeHandler(handler)
    assert [record.getMessage() for record in records] == ["two\nlines"]
    assert "nobody would see this" not in told


def test_streams_that_are_not_there_are_left_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with captured(lambda level, line: None):
        assert (sys.stdout, sys.stderr) == (None, None)


PROGRAM = """
import sys, nbloader
job = nbloader.start({model!r}, {choices}progress_callback=lambda step: print("callback", step["status"]))
job.result()
print([(line.level, line.arguments["text"]) for line in job.state.log if line.code == "library_says"])
"""


@pytest.mark.parametrize("choices", ["", "quantization='int8', ", "quantization='8bit', "])
def test_the_first_load_of_a_process_prints_nothing_of_its_own(choices: str, tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama", hidden_size=64), tmp_path)
    program = PROGRAM.format(model=str(folder), choices=choices)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    *callbacks, said = done.stdout.splitlines()
    assert callbacks
    assert all(line.startswith("callback ") for line in callbacks)
    assert ast.literal_eval(said)  # what torchao lacks on this machine, which it says each time


STRANGE: dict[str, str] = {
    "no streams": "sys.stdout = sys.stderr = None",
    "closed streams": "sys.stdout, sys.stderr = io.StringIO(), io.StringIO(); sys.stdout.close(); sys.stderr.close()",
    "a stream without Korean": "sys.stderr = io.TextIOWrapper(io.BytesIO(), 'ascii')",
    "a stream that has little": "sys.stderr = type('Stream', (), {'write': lambda self, said: None})()",
    "no interrupts": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "warnings as errors": "import warnings; warnings.simplefilter('error')",
    "silent logging": "import transformers; transformers.logging.set_verbosity_error(); logging.disable(50)",
    "float64 by default": "import torch; torch.set_default_dtype(torch.float64)",
    "bfloat16 by default": "import torch; torch.set_default_dtype(torch.bfloat16)",
    "the CPU by default": "import torch; torch.set_default_device('cpu')",
}


@pytest.mark.parametrize("how", STRANGE)
def test_a_load_is_as_plain_however_the_process_is_set(how: str, tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama"), tmp_path / "model")
    program = f"""
import io, logging, sys
sys.path[:0] = {sys.path!r}
{STRANGE[how]}
import nbloader
model = nbloader.load({str(folder)!r}, locale="ko").model
from transformers import AutoModelForCausalLM
from support.compare import differences
import transformers, os
sys.stdout = sys.stderr = open(os.devnull, "w")
plain = AutoModelForCausalLM.from_pretrained({str(folder)!r})
open({str(tmp_path / "found")!r}, "w").write(repr(differences(model, plain)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "found").read_text() == "[]"


def test_a_default_device_without_memory_is_refused_as_plainly(demo_small: Path) -> None:
    import torch
    import transformers

    with torch.device("meta"):
        with pytest.raises(RuntimeError, match="meta device"):
            transformers.AutoModelForCausalLM.from_pretrained(demo_small)
        with pytest.raises(nbloader.OptionError, match='default device is "meta"'):
            nbloader.load(demo_small, progress=False)
    assert nbloader.load(demo_small, progress=False).model.device.type == "cpu"


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "torch": ("", {}),
    "transformers": ("", {}),
    "safetensors": ("", {}),
    "huggingface_hub": ("", {}),
    "accelerate": ("", {}),
    "torchvision": ("pip install --upgrade torch torchvision", {}),
    "peft": ("", {"adapter": "{lora}"}),
    "bitsandbytes": ("", {"quantization": "8bit"}),
    "torchao": ("", {"quantization": "int8"}),
}


@pytest.fixture(scope="module")
def with_adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    top = tmp_path_factory.mktemp("adapted")
    folder = archs.save(archs.build("llama"), top / "model")
    return folder, archs.make_adapter(folder, top / "lora", str(folder))


@pytest.mark.parametrize("name", BROKEN)
def test_a_library_that_does_not_import_is_named(name: str, with_adapter: tuple[Path, Path], tmp_path: Path) -> None:
    folder, lora = with_adapter
    package = tmp_path / "fakes" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('raise RuntimeError("operator nms does not exist")')
    metadata = tmp_path / "fakes" / f"{name}-99.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")
    hint, choices = BROKEN[name]
    choices = {key: str(lora) if value == "{lora}" else value for key, value in choices.items()}
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path / "fakes")!r})
try:
    import nbloader
    print("loaded", nbloader.load({str(folder)!r}, progress=False, **{choices!r}))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    if name == "huggingface_hub":  # which nbloader imports itself
        assert "operator nms does not exist" in said
        return
    assert said.startswith(f"DependencyError {name} ")
    assert "is installed but cannot be imported: " in said
    assert (hint or f"pip install --force-reinstall {name}") in said
    assert "operator nms does not exist" in said
    assert "fault" not in said
