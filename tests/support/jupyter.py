"""JupyterLab or Notebook 7 on loopback, and a page of Chromium that drives it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Dialog, Error, Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from find_browser import find_browser

# The second line keeps Chromium from asking the network for anything of its own.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
AXE = Path(__file__).parents[2] / "js/node_modules/axe-core/axe.min.js"
APPS = {"lab": "LabApp", "notebook": "JupyterNotebookApp"}
TOOLS = """
window.nb = {
  app: () => window.jupyterapp,
  content: () => nb.app().shell.currentWidget.content,
  kernel: () => nb.app().shell.currentWidget.context.sessionContext.session?.kernel,
  ready: () => {
    try { return nb.content().widgets.length > 0 && nb.kernel().connectionStatus === "connected"; }
    catch { return false; }
  },
  begin: (index) => {
    nb.content().activeCellIndex = index;
    nb.app().commands.execute("notebook:run-cell");
    return true;
  },
  state: (index) => nb.content().widgets[index].model.executionState,
  count: (index) => nb.content().widgets[index].model.executionCount,
  text: (index) => nb.content().widgets[index].outputArea.node.innerText,
};
"""


expect.set_options(timeout=60_000)  # a kernel that imports torch for the first time takes its time


@dataclass
class Server:
    """A running server: its address, its token, its folder, and the environment that it runs in."""

    url: str
    token: str
    root: Path
    app: str
    environment: dict[str, str]

    def write(self, name: str, cells: Sequence[str]) -> str:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.root / name)
        return name


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def serve(root: Path, app: str = "lab", settings: dict[str, Any] | None = None) -> Iterator[Server]:
    """Start a server over `root`, with settings of its own, and end it with its kernels."""
    home = root / ".home"
    user_settings = home / "settings/@jupyterlab/apputils-extension"
    user_settings.mkdir(parents=True)
    (user_settings / "themes.jupyterlab-settings").write_text(json.dumps(settings or {}))
    (user_settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    port, token = free_port(), secrets.token_hex(16)
    folders = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
    }  # fmt: skip
    environment = {**os.environ, **{name: str(home / folder) for name, folder in folders.items()}}
    command = [
        sys.executable, "-m", "jupyterlab" if app == "lab" else "notebook", "--no-browser", "--ip=127.0.0.1",
        f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}", "--allow-root", f"--{APPS[app]}.expose_app_in_browser=True",
    ]  # fmt: skip
    server = Server(f"http://127.0.0.1:{port}", token, root, app, environment)
    with running(command, f"{server.url}/api/status?token={token}", root / "server.log", environment):
        try:
            yield server
        finally:
            _end_kernels(server)


@contextmanager
def running(command: Sequence[str], url: str, log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run a server from the moment that it answers at `url`, be it that it refuses, and end it."""
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            until = time.monotonic() + 60
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(log.read_text()[-3000:])
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


def _end_kernels(server: Server) -> None:
    try:
        for session in json.loads(_ask(server, "GET", "/api/sessions")):
            _ask(server, "DELETE", f"/api/sessions/{session['id']}")
    except OSError:
        pass  # the server is gone already


def _ask(server: Server, method: str, path: str) -> bytes:
    request = urllib.request.Request(f"{server.url}{path}?token={server.token}", method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


@contextmanager
def open_browser(**context: Any) -> Iterator[Page]:
    """Start Chromium with one page; `page.complaints` collects the panel's errors and any dialog."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), headless=True, args=FLAGS)
        page = browser.new_context(**{"viewport": {"width": 1200, "height": 1000}, **context}).new_page()
        page.set_default_timeout(60_000)
        page.complaints = []  # type: ignore[attr-defined]
        page.on("pageerror", lambda error: _note_error(page, error))
        page.on("dialog", lambda dialog: _note_dialog(page, dialog))
        try:
            yield page
        finally:
            browser.close()


def _note_error(page: Page, error: Error) -> None:
    if "blob:" in (error.stack or ""):  # where anywidget's modules come from; the rest is Jupyter's own
        page.complaints.append(str(error))  # type: ignore[attr-defined]


def _note_dialog(page: Page, dialog: Dialog) -> None:
    if dialog.type != "beforeunload":  # an unsaved notebook's, when the page goes on to the next
        page.complaints.append(f"dialog: {dialog.message}")  # type: ignore[attr-defined]
    dialog.accept()


def open_notebook(page: Page, server: Server, name: str) -> None:
    """Open a notebook and wait until its kernel can be used."""
    where = f"lab/tree/{name}?reset&" if server.app == "lab" else f"notebooks/{name}?"
    page.goto(f"{server.url}/{where}token={server.token}")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.evaluate(TOOLS)
    page.wait_for_function("nb.ready()")


def begin(page: Page, index: int) -> None:
    """Start a cell."""
    page.evaluate(f"nb.begin({index})")


def finish(page: Page, index: int) -> str:
    """Wait for a cell that was started, and return its output's text."""
    # The kernel's own status flips with every message on a subshell; the cell's does not.
    page.wait_for_function(f"nb.count({index}) !== null && nb.state({index}) === 'idle'")
    return str(page.evaluate(f"nb.text({index})"))


def run(page: Page, index: int) -> str:
    """Run a cell to its end, and return its output's text."""
    begin(page, index)
    return finish(page, index)
