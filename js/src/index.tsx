// The widget's front end: draws what Python sends, and sends back what is clicked.

import { render as draw } from "preact";
import { Header } from "./panels/header";
import { Log } from "./panels/log";
import { Memory } from "./panels/memory";
import { Outcome } from "./panels/outcome";
import { Progress } from "./panels/progress";
import { Shards } from "./panels/shards";
import { Stages } from "./panels/stages";
import type { PanelState, ShardNames, ShardTimes } from "./state";

/** The part of anywidget's model that is used. */
export interface Model {
  get(name: string): unknown;
  on(event: string, listener: () => void): void;
  off(event: string, listener: () => void): void;
  send(content: unknown): void;
}

const TRAITS = ["_state", "_shards", "_lanes"] as const;

function Panel({ model }: { model: Model }) {
  const state = model.get("_state") as PanelState;
  const shards = model.get("_shards") as ShardNames;
  const times = model.get("_lanes") as readonly ShardTimes[];
  return (
    <>
      <Header state={state} onCancel={() => model.send({ kind: "cancel" })} />
      <Progress state={state} />
      <Outcome state={state} />
      <div class="nbl-columns">
        <Stages state={state} />
        <Memory state={state} />
      </div>
      <Shards state={state} shards={shards} times={times} />
      <Log state={state} />
    </>
  );
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const root = document.createElement("div");
  root.className = "nbl-panel";
  el.append(root);
  const update = () => draw(<Panel model={model} />, root);
  for (const trait of TRAITS) {
    model.on(`change:${trait}`, update);
  }
  update();
  return () => {
    for (const trait of TRAITS) {
      model.off(`change:${trait}`, update);
    }
    draw(null, root);
  };
}

export default { render };
