// The widget's front end: draws what Python sends, and sends back what is clicked.

import { adopts, type Followed, follow } from "./adopt";
import type { Model } from "./model";
import { mount } from "./mount";
import { follow as followLanes, type Store } from "./store";

// A widget has this module for itself.
let followed: Followed | null = null;
let store: Store | null = null;

/** Follows what notebooks keep of the panel, from the moment that a page knows of the widget. */
function initialize({ model }: { model: Model }): () => void {
  followed?.stop();
  store?.stop();
  const kept = followLanes(model);
  const made = follow(String(model.get("_anchor")), (el) => mount(model, kept, el));
  [followed, store] = [made, kept];
  return () => {
    made.stop();
    kept.stop();
    if (followed === made) {
      [followed, store] = [null, null];
    }
  };
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const own = store === null ? followLanes(model) : null;
  const stopDrawing = followed?.show(el) ?? mount(model, own ?? (store as Store), el);
  model.send({ kind: "drawn", language: navigator.language });
  if (followed !== null && adopts()) {
    model.send({ kind: "adopts" });
  }
  return () => {
    stopDrawing();
    own?.stop();
  };
}

export default { initialize, render };
