"""What is used of transformers without being documented: without it a load works the plain way, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from support import archs
from support.compare import differences

import nbloader
from nbloader._libraries.transformers import hooks, watching
from nbloader._libraries.transformers.hooks import _HOOKS

# transformers' own code calls these, so that they can be taken away from its sight only by name.
CALLED = {name for names in _HOOKS.values() for name in names}


@pytest.mark.parametrize("name", sorted(CALLED))
def test_this_transformers_has_it(name: str) -> None:
    assert name not in hooks.missing_hooks()


@pytest.mark.parametrize("name", sorted(CALLED))
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_load_without_it_is_a_plain_one_and_says_what_is_missing(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = archs.build("gpt2 (tied)")
    folder = archs.save(model, tmp_path, 2) if kind == "safetensors" else archs.save_bin(model, tmp_path, 2)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16")
    has = hooks._has
    monkeypatch.setattr(hooks, "_has", lambda each: each != name and has(each))
    if name == "utils.logging:set_tqdm_hook":
        monkeypatch.delattr("transformers.utils.logging.set_tqdm_hook")
    job = nbloader.start(folder, dtype="bfloat16")
    assert differences(job.result().model, plain) == []
    told = [line.arguments["names"] for line in job.state.log if line.code == "hooks_missing"]
    assert told == [name]
    assert job.state.status == "ready"
    assert job.state.bytes_placed == job.state.bytes_to_place > 0


def test_another_way_to_the_elements_has_the_whole_file() -> None:
    """safetensors 0.9 can prefetch; what has not been read yet is not to be taken for the weights."""
    waited: list[tuple[str, str]] = []

    class File:
        def prefetch(self, names: list[str]) -> str:
            return "prefetched"

        def keys(self) -> list[str]:
            return ["a"]

    class Gate:
        def wait_for(self, path: str, key: str) -> None:
            waited.append((path, key))

        def path_of(self, path: str) -> str:
            return path

    file: Any = watching._WaitingFile(File(), "x.safetensors", Gate())
    assert (file.keys(), waited) == (["a"], [])
    assert file.prefetch(["a"]) == "prefetched"
    assert waited == [("x.safetensors", "")]
