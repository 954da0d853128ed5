// The widget's front end: draws what Python sends, and sends back what is clicked.

import { adopts, type Followed, follow } from "./adopt";
import type { Model } from "./model";
import { mount } from "./mount";

// A widget has this module for itself.
let followed: Followed | null = null;

/** Follows what notebooks keep of the panel, from the moment that a page knows of the widget. */
function initialize({ model }: { model: Model }): () => void {
  followed?.stop();
  const made = follow(String(model.get("_anchor")), (el) => mount(model, el));
  followed = made;
  return () => {
    made.stop();
    followed = followed === made ? null : followed;
  };
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const stop = followed?.show(el) ?? mount(model, el);
  model.send({ kind: "drawn", language: navigator.language });
  if (followed !== null && adopts()) {
    model.send({ kind: "adopts" });
  }
  return stop;
}

export default { initialize, render };
