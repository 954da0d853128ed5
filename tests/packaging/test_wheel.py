"""The wheel, as a user without Node gets it: built, installed into an empty environment, imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 45_000  # bytes of the bundle: anywidget sends it once per widget


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, made from what git would hand out, on a PATH without node and npm."""
    where = tmp_path_factory.mktemp("build")
    source = where / "source"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in filter(lambda name: (ROOT / name).is_file(), names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    binaries = where / "bin"
    binaries.mkdir()
    for tool in ("sh", "git", "env", "uname"):
        found = shutil.which(tool)
        if found:
            (binaries / tool).symlink_to(found)
    environment = {**os.environ, "PATH": str(binaries)}
    assert shutil.which("npm", path=environment["PATH"]) is None
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(where / "dist"), str(source)], env=environment, check=True
    )
    return where / "dist"


def test_the_wheel_holds_the_bundle_and_what_a_user_needs(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        bundle = archive.read("nbloader/static/widget.js")
    assert b"export" in bundle
    assert len(bundle) <= MOST
    for name in ("nbloader/static/style.css", "nbloader/locale/en.json", "nbloader/py.typed"):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("js/", "tests/")) or "node_modules" in name for name in names)


def test_the_sdist_can_be_built_from(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"js/src/index.tsx", "js/package-lock.json", "js/build.mjs", "hatch_build.py", "LICENSE"} <= names
    assert not any("node_modules" in name for name in names)


def test_the_wheel_imports_in_a_clean_environment(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    # What the import needs, and not the gigabytes that a load needs: torch and transformers come in with a load.
    light = ["anywidget", "ipywidgets", "platformdirs", "psutil", "tqdm"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *constraints, *light], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    code = "import nbloader; w = nbloader.LoaderWidget('demo'); print(len(str(w._esm)), w.state.status)"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    size, status = done.stdout.split()
    assert int(size) > 10_000
    assert status == "idle"
    helped = subprocess.run([python.parent / "nbloader", "--help"], capture_output=True, text=True, check=True)
    assert "load" in helped.stdout


def test_the_bundle_of_this_tree_is_small() -> None:
    assert (ROOT / "src/nbloader/static/widget.js").stat().st_size <= MOST
