"""An open workbench imports the libraries, so that a click on Load finds them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

OPEN_WORKBENCH = textwrap.dedent(
    """
    import sys, threading, time
    import comm
    from support.comm import RecordingComm
    from nbloader import LoaderWidget
    from nbloader._system.modules import imported

    comm.create_comm = RecordingComm
    names = []
    widget = LoaderWidget(sys.argv[1])
    views = []
    widget.observe(lambda change: views.append(change["new"]), ["_form"])
    widget._repr_mimebundle_()
    names += [thread.name for thread in threading.enumerate()]
    behind = ("nbloader-imports", "nbloader-plan")
    while threads := [thread for thread in threading.enumerate() if thread.name in behind]:
        threads[0].join()
    plans = sum(view["plan"] is not None and not view["planning"] for view in views)
    print("nbloader-imports" in names, imported("transformers.modeling_utils") is not None, plans)
    """
)


def opened(model: Path, state: Path, **environment: str) -> str:
    known = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "XDG_STATE_HOME": str(state)}
    done = subprocess.run(
        [sys.executable, "-c", OPEN_WORKBENCH, str(model)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**known, **environment},
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_an_open_workbench_imports_the_libraries_and_plans_anew(demo_small: Path, tmp_path: Path) -> None:
    assert opened(demo_small, tmp_path) == "True True 2\n"


@pytest.mark.parametrize("value", ["0", "false", "No", "off"])
def test_the_environment_turns_it_off(demo_small: Path, tmp_path: Path, value: str) -> None:
    assert opened(demo_small, tmp_path, NBLOADER_IMPORT_AHEAD=value) == "False False 1\n"
