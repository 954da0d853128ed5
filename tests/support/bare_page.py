"""The panel on a page of its own, without a notebook: drawn from states, under the colours of a notebook's theme."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

import nbloader
from nbloader._text.catalogue import FRONT_END, in_locale, texts

STATIC = Path(nbloader.__file__).parent / "static"

# The colours as JupyterLab 4 and Visual Studio Code define them.
THEMES = {
    "lab light": {
        "--jp-ui-font-color1": "rgba(0, 0, 0, 0.87)", "--jp-ui-font-color2": "rgba(0, 0, 0, 0.54)",
        "--jp-layout-color1": "#fff",
        "--jp-brand-color1": "#1976d2", "--jp-success-color1": "#388e3c", "--jp-error-color1": "#d32f2f",
        "--jp-warn-color1": "#f57c00",
    },
    "lab dark": {
        "--jp-ui-font-color1": "#fff", "--jp-ui-font-color2": "rgba(255, 255, 255, 0.7)",
        "--jp-layout-color1": "#111",
        "--jp-brand-color1": "#2196f3", "--jp-success-color1": "#4caf50", "--jp-error-color1": "#f44336",
        "--jp-warn-color1": "#ff9800",
    },
    "code light": {
        "--vscode-foreground": "#3b3b3b", "--vscode-descriptionForeground": "#3b3b3b",
        "--vscode-editor-background": "#ffffff",
        "--vscode-progressBar-background": "#005fb8",
        "--vscode-testing-iconPassed": "#73c991", "--vscode-errorForeground": "#f85149",
        "--vscode-editorWarning-foreground": "#bf8803",
    },
    "code dark": {
        "--vscode-foreground": "#cccccc", "--vscode-descriptionForeground": "#9d9d9d",
        "--vscode-editor-background": "#1f1f1f",
        "--vscode-progressBar-background": "#0078d4",
        "--vscode-testing-iconPassed": "#73c991", "--vscode-errorForeground": "#f85149",
        "--vscode-editorWarning-foreground": "#cca700",
    },
    "plain": {},
}  # fmt: skip

_MODEL = """
([module, values]) => {
  const listeners = {};
  window.values = values;
  const model = {
    get: (name) => window.values[name],
    on: (event, listener) => (listeners[event] ??= new Set()).add(listener),
    off: (event, listener) => listeners[event]?.delete(listener),
    send: (content) => (window.sent ??= []).push(content),
  };
  window.show = (changes) => {
    Object.assign(window.values, changes);
    for (const name of Object.keys(changes)) {
      for (const listener of listeners[`change:${name}`] ?? []) listener();
    }
  };
  const began = performance.now();
  const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
  return import(url).then(({ default: widget }) => {
    widget.initialize({ model });
    widget.render({ model, el: document.querySelector("#panel") });
    // The next frame is painted before a message that is posted in it arrives.
    return new Promise((resolve) => {
      requestAnimationFrame(() => {
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => resolve(performance.now() - began);
        port2.postMessage(null);
      });
    });
  });
}
"""


def open_panel(page: Page, view: Mapping[str, Any], theme: str = "plain", language: str = "en") -> float:
    """Draw these traits on an empty page; return how many milliseconds it took until they were painted."""
    colors = "".join(f"{name}: {value};" for name, value in THEMES[theme].items())
    background = "var(--jp-layout-color1, var(--vscode-editor-background, #fff))"
    style = (STATIC / "style.css").read_text(encoding="utf-8")
    page.goto("about:blank")
    page.set_content(
        f"<!doctype html><html lang='{language}'><title>panel</title><style>{style}</style>"
        f"<body style='{colors} background: {background}'><main id='panel'></main></body></html>"
    )
    whole: dict[str, Any] = {"_form": None, "_runs": {"runs": [], "note": ""}, "_diagnosis": None, "_anchor": "none"}
    whole |= {"_texts": {group: texts(language)[group] for group in FRONT_END}, **in_locale(dict(view), language)}
    return float(
        page.evaluate(_MODEL, [(STATIC / "widget.js").read_text(encoding="utf-8"), json.loads(json.dumps(whole))])
    )


def show(page: Page, view: Mapping[str, Any]) -> None:
    """Send changes of the traits to the panel."""
    page.evaluate("changes => window.show(changes)", json.loads(json.dumps(in_locale(dict(view), "en"))))
