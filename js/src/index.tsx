// The widget's front end: draws what Python sends, and sends back what is clicked.

import { render as draw } from "preact";
import { useState } from "preact/hooks";
import { adopts, type Followed, follow } from "./adopt";
import { Diagnosis } from "./panels/diagnosis";
import type { Edits } from "./panels/form";
import { Form, said } from "./panels/form";
import { Header } from "./panels/header";
import { Log } from "./panels/log";
import { Memory } from "./panels/memory";
import { Outcome } from "./panels/outcome";
import { PlanView } from "./panels/plan";
import { Progress } from "./panels/progress";
import { Runs } from "./panels/runs";
import { Shards } from "./panels/shards";
import { Stages } from "./panels/stages";
import type {
  DiagnosisState,
  FormState,
  PanelState,
  RunsState,
  ShardNames,
  ShardTimes,
  Status,
} from "./state";
import { isOver } from "./state";
import { setTexts, texts } from "./texts";

/** The part of anywidget's model that is used. */
export interface Model {
  get(name: string): unknown;
  on(event: string, listener: () => void): void;
  off(event: string, listener: () => void): void;
  send(content: unknown): void;
}

const TRAITS = ["_texts", "_state", "_shards", "_lanes", "_form", "_runs", "_diagnosis"] as const;

// Between two looks at how long the kernel has been silent.
const LISTEN_SECONDS = 5;

/** A click names its load: the next one may have begun by the time it arrives. */
function cancel(model: Model, number: number): void {
  model.send({ kind: "cancel", number });
}

function Panel({ model, silent }: { model: Model; silent: number }) {
  const state = model.get("_state") as PanelState;
  const shards = model.get("_shards") as ShardNames;
  const times = model.get("_lanes") as readonly ShardTimes[];
  const form = model.get("_form") as FormState | null;
  const isIdle = state.status === "idle";
  return (
    <>
      <Header
        state={state}
        onCancel={() => cancel(model, state.number)}
        onUnload={() => model.send({ kind: "unload" })}
      />
      {form !== null && <Workbench model={model} form={form} status={state.status} />}
      {(form === null || !isIdle || state.gone !== null) && (
        <Load model={model} state={state} shards={shards} times={times} silent={silent} />
      )}
      {form !== null && (
        <Runs state={model.get("_runs") as RunsState} onClear={() => model.send({ kind: "clear_history" })} />
      )}
    </>
  );
}

/** The form, and beside it what it will cost. */
function Workbench({ model, form, status }: { model: Model; form: FormState; status: Status }) {
  const [edits, setEdits] = useState<Edits>({});
  const send = (kind: string, changed: Edits) => model.send({ kind, choices: said(changed) });
  return (
    <div class="nbl-workbench">
      <Form form={form} edits={edits} onEdit={setEdits} onChange={(changed) => send("plan", changed)} />
      <PlanView
        form={form}
        isLoading={status !== "idle" && !isOver(status)}
        onLoad={() => send("load", edits)}
      />
    </div>
  );
}

function Load(props: {
  model: Model;
  state: PanelState;
  shards: ShardNames;
  times: readonly ShardTimes[];
  silent: number;
}) {
  const { model, state, shards, times, silent } = props;
  return (
    <>
      <Progress state={state} />
      <Outcome
        state={state}
        silent={silent}
        onCancel={() => cancel(model, state.number)}
        onAnswer={(question, choice) =>
          model.send({ kind: "answer", number: state.number, question, choice })
        }
        onCancelOther={(number) => cancel(model, number)}
      />
      <div class="nbl-columns">
        <Stages state={state} />
        <Memory state={state} />
      </div>
      {!state.summary?.already_loaded && <Shards state={state} shards={shards} times={times} />}
      <Log state={state} />
      {/* At the end: what comes last moves nothing. */}
      <Diagnosis told={model.get("_diagnosis") as DiagnosisState | null} />
    </>
  );
}

/** JupyterLab's notebook takes arrows and letters as its own wherever nobody writes, unless the element says no. */
function keepKeys(event: FocusEvent): void {
  if (event.target instanceof HTMLElement && !event.target.matches(":read-write")) {
    event.target.dataset.lmSuppressShortcuts = "true";
  }
}

/** Whether this is a state at all: a saved notebook may hold anything in its place. */
function isState(value: unknown): boolean {
  const state = value as Partial<PanelState> | null | undefined;
  return (
    typeof state?.name === "string" &&
    typeof state.status === "string" &&
    Array.isArray(state.stages) &&
    Array.isArray(state.log)
  );
}

/** Draws the panel, and again at every change; returns how to stop. */
function mount(model: Model, el: HTMLElement): () => void {
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
      draw(<Panel model={model} silent={Math.floor((Date.now() - heard) / 1000)} />, root);
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
