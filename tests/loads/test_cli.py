"""The command, as a person runs it."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from safetensors.torch import save_file
from support.hub import Hub, Repo
from support.pickles import as_pickle, tensors_of

COMMAND = [str(Path(sys.executable).parent / "nbloader")]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def test_stages_and_one_line_of_result(demo_small: Path) -> None:
    done = run("load", str(demo_small))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split(" s  ")[1].split("  ")[0] for line in lines[:-1]] == [
        "Find checkpoint", "Check files", "Import libraries", "Tokenizer", "Config", "Weights", "Finish placing",
        "Metadata",
    ]  # fmt: skip
    assert lines[-1].startswith(f"{demo_small.name}: 19.4 MB in ")
    assert lines[-1].endswith("bfloat16 on cpu")
    assert "Loading weights" not in done.stderr


def test_options_are_passed_on(demo_small: Path) -> None:
    done = run("load", str(demo_small), "--dtype", "float32", "--quiet")
    assert done.stdout.strip().endswith("float32 on cpu")
    assert len(done.stdout.splitlines()) == 1


def test_a_download_without_a_load(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small)
    done = run("download", "us/demo", "--cache-dir", str(tmp_path))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split(" s  ")[1].split("  ")[0] for line in lines[:-1]] == ["Find checkpoint", "Download"]
    assert "downloaded in" in lines[-1]
    assert str(tmp_path) in lines[-1]
    again = run("download", "us/demo", "--cache-dir", str(tmp_path), "--quiet")
    assert again.stdout.startswith("us/demo: all files are in ")


def test_a_failed_download_is_told_and_exits_non_zero(hub: Hub, tmp_path: Path) -> None:
    done = run("download", "us/nothing", "--cache-dir", str(tmp_path))
    assert done.returncode == 1
    assert "SourceError" in done.stderr


def test_a_failure_is_told_and_exits_non_zero(tmp_path: Path) -> None:
    done = run("load", str(tmp_path))
    assert done.returncode == 1
    assert "CheckpointError" in done.stderr
    assert "has no config.json" in done.stderr
    assert "save_pretrained" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_option_is_told(tmp_path: Path) -> None:
    done = run("load", str(tmp_path), "--device", "gpu")
    assert done.returncode == 1
    assert "device='gpu' is not a valid device" in done.stderr


def test_demo_needs_no_network(tmp_path: Path) -> None:
    done = run("load", "demo", "--quiet", HF_HUB_OFFLINE="1")
    assert done.returncode == 0
    assert "1.00 GB" in done.stdout


def test_an_interrupt_ends_it(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    hub.repos["us/demo"] = repo
    process = subprocess.Popen(
        [*COMMAND, "load", "us/demo", "--cache-dir", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore interrupts, and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert repo.stalled.wait(60)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)  # although the download's socket is still stalled
    assert process.returncode == 130
    assert "Cancelled after" in told
    assert "Traceback" not in told


def test_a_terminal_shows_a_bar(demo_small: Path) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen([*COMMAND, "load", str(demo_small)], stderr=follower, stdout=subprocess.DEVNULL)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert process.wait(60) == 0
    assert b"100%" in shown
    assert b"Ready" in shown


def test_a_wrong_option_is_told_in_the_language_that_was_chosen(tmp_path: Path) -> None:
    done = run("load", str(tmp_path), "--device", "gpu", "--locale", "ko", LC_ALL="C.UTF-8")
    assert done.returncode == 1
    assert "올바른 장치가 아닙니다" in done.stderr


def test_a_folder_may_be_named_like_json() -> None:
    done = run("plan", "no/such", "--cache-dir", "{cache}", "--local-files-only")
    assert "[not-cached]" in done.stderr
    wrong = run("plan", "demo", "--max-memory", "{cpu")
    assert "--max-memory is not valid JSON" in wrong.stderr


@pytest.mark.parametrize("arguments", [(), ("load",), ("lod", "x"), ("load", "demo", "--dtpye", "x")])
def test_usage_is_told(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_doctor_says_where_the_time_went(demo_small: Path) -> None:
    done = run("doctor", str(demo_small), "--dtype", "float32")
    assert done.returncode == 0
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0].startswith(f"{demo_small.name}: ")
    assert any(line.startswith("Imports ") and line.endswith("%") for line in lines)
    assert any(line.startswith("Types ") and line.endswith("→ float32") for line in lines)


@pytest.mark.parametrize("command", ["load", "doctor"])
def test_what_the_log_warns_of_is_told(demo_small: Path, tmp_path: Path, command: str) -> None:
    folder = Path(shutil.copytree(demo_small, tmp_path / "less", ignore=shutil.ignore_patterns("*.safetensors*")))
    tensors = tensors_of(demo_small)
    save_file(dict(list(tensors.items())[1:]), folder / "model.safetensors")
    done = run(command, str(folder))
    assert done.returncode == 0
    assert "⚠ 1 tensors are not in the checkpoint and were newly initialised" in done.stderr


def test_a_reader_that_has_had_enough_is_no_error(demo_small: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "plan", str(demo_small)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 1


def test_what_a_terminal_cannot_show_ends_nothing(demo_small: Path) -> None:
    done = run("plan", str(demo_small), "--locale", "ko", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "safetensors" in done.stdout


def test_doctor_looks_without_loading(demo_small: Path) -> None:
    done = run("doctor", str(demo_small), "--no-load")
    assert done.returncode == 0
    assert "Imports" not in done.stdout
    assert "safetensors, 19.4 MB in 4 file(s)" in done.stdout


def test_convert_says_what_it_made(demo_small: Path, tmp_path: Path) -> None:
    folder = as_pickle(demo_small, tmp_path / "pickled")
    done = run("convert", str(folder))
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "Reading pytorch_model.bin",
        f"model.safetensors in {folder}: 19.4 MB, {len(tensors_of(demo_small))} tensors, each compared with the original",  # noqa: E501
    ]
    again = run("convert", str(folder))
    assert again.returncode == 1
    assert "has safetensors already" in again.stderr


def test_it_speaks_korean(demo_small: Path, tmp_path: Path) -> None:
    done = run("load", str(demo_small), LC_ALL="ko_KR.UTF-8", PYTHONUTF8="1")
    assert "토크나이저" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("cpu에 bfloat16")
    failed = run("load", str(tmp_path), "--locale", "ko", LC_ALL="C.UTF-8")
    assert failed.stderr.startswith("❌ 오류: ")
    assert "체크포인트를 로드하고" in run("--help", LC_ALL="ko_KR.UTF-8", PYTHONUTF8="1").stdout


@pytest.mark.parametrize("runner", [["-c"], ["-m", "IPython", "--colors=NoColor", "-c"]])
def test_a_widget_in_a_terminal_is_a_bar(runner: list[str], demo_small: Path) -> None:
    code = f"from nbloader import LoaderWidget; w = LoaderWidget({str(demo_small)!r}).show(); w.result(); print(w)"
    done = subprocess.run([sys.executable, *runner, code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == f"LoaderWidget({str(demo_small)!r}): ready"
    last = done.stderr.strip().splitlines()[-1]
    assert (last.startswith(f"{demo_small.name} 100%"), last.endswith("Ready")) == (True, True)


@pytest.mark.parametrize("xet", [False, True])
def test_cached_files_are_compared_with_the_hub(xet: bool, hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, xet=xet)
    assert run("load", "us/demo", "--cache-dir", str(tmp_path), "--quiet").returncode == 0
    done = run("verify", "us/demo", "--cache-dir", str(tmp_path))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "All 8 files are as the Hub lists them.")
    for name in ("model-00002-of-00004.safetensors", "config.json"):
        path = next(tmp_path.rglob(name)).resolve()
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    done = run("verify", "us/demo", "--cache-dir", str(tmp_path))
    assert done.returncode == 1
    wrong = {line.partition(":")[0] for line in done.stdout.splitlines() if "differs" in line}
    assert wrong == {"model-00002-of-00004.safetensors", "config.json"}
    done = run("verify", "us/demo", "--cache-dir", str(tmp_path), "--fetch")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 files were downloaded again.")
    assert run("verify", "us/demo", "--cache-dir", str(tmp_path)).returncode == 0
    assert run("load", "us/demo", "--cache-dir", str(tmp_path), "--quiet").returncode == 0


def test_only_a_repository_can_be_compared(demo_small: Path) -> None:
    done = run("verify", str(demo_small))
    assert done.returncode == 1
    assert "cannot be compared with the Hub" in done.stderr
