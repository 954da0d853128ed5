// Draws the panel into an element of the page, and again at every change.

import { render as draw } from "preact";
import { type Model, TRAITS } from "./model";
import { Panel } from "./panel";
import type { Store } from "./store";
import { setTexts, texts } from "./texts";
import type { State } from "./wire";

// Between two looks at how long the kernel has been silent.
const LISTEN_SECONDS = 5;

/** JupyterLab's notebook takes arrows and letters as its own wherever nobody writes, unless the element says no. */
function keepKeys(event: FocusEvent): void {
  if (event.target instanceof HTMLElement && !event.target.matches(":read-write")) {
    event.target.dataset.lmSuppressShortcuts = "true";
  }
}

/** Whether this is a state at all: a saved notebook may hold anything in its place. */
function isState(value: unknown): boolean {
  const state = value as Partial<State> | null | undefined;
  return (
    typeof state?.name === "string" &&
    typeof state.status === "string" &&
    Array.isArray(state.stages) &&
    Array.isArray(state.log)
  );
}

/** Draws the panel, and again at every change; returns how to stop. */
export function mount(model: Model, store: Store, el: HTMLElement): () => void {
  const makeRoot = (): HTMLElement => {
    const made = document.createElement("div");
    made.className = "nbl-panel";
    made.addEventListener("focusin", keepKeys);
    return made;
  };
  let root = makeRoot();
  let isBroken = false;
  el.append(root);
  // What failed to draw leaves a tree that cannot be drawn on.
  const begin = (text: string): void => {
    const made = makeRoot();
    made.textContent = text;
    root.replaceWith(made);
    root = made;
    isBroken = text !== "";
  };
  let heard = Date.now();
  const update = () => {
    try {
      if (!isState(model.get("_state"))) {
        throw new TypeError("no state");
      }
      setTexts(model.get("_texts"));
      if (isBroken) {
        begin("");
      }
      draw(<Panel model={model} store={store} silent={Math.floor((Date.now() - heard) / 1000)} />, root);
    } catch {
      begin(texts.panel?.unreadable ?? "✕");
    }
  };
  const hear = () => {
    heard = Date.now();
    update();
  };
  for (const trait of TRAITS) {
    model.on(`change:${trait}`, hear);
  }
  const clock = setInterval(update, 1000 * LISTEN_SECONDS);
  hear();
  return () => {
    clearInterval(clock);
    for (const trait of TRAITS) {
      model.off(`change:${trait}`, hear);
    }
    draw(null, root);
  };
}
