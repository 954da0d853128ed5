// The panel: what is drawn of a load and of a workbench, and in which order.

import { useState } from "preact/hooks";
import { cancel, isOver, type Model } from "./model";
import { Diagnosis } from "./panels/diagnosis";
import { type Edits, Form, said } from "./panels/form";
import { Header } from "./panels/header";
import { Log } from "./panels/log";
import { Memory } from "./panels/memory";
import { Outcome } from "./panels/outcome";
import { PlanView } from "./panels/plan";
import { Progress } from "./panels/progress";
import { Runs } from "./panels/runs";
import { Shards } from "./panels/shards";
import { Stages } from "./panels/stages";
import type { Form as FormView, State } from "./wire";

/** The whole panel: a workbench, a load, or both. */
export function Panel({ model, silent }: { model: Model; silent: number }) {
  const state = model.get("_state");
  const form = model.get("_form");
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
        <Load model={model} state={state} silent={silent} />
      )}
      {form !== null && (
        <Runs state={model.get("_runs")} onClear={() => model.send({ kind: "clear_history" })} />
      )}
    </>
  );
}

/** The form, and beside it what it will cost. */
function Workbench({ model, form, status }: { model: Model; form: FormView; status: State["status"] }) {
  const [edits, setEdits] = useState<Edits>({});
  const send = (kind: string, changed: Edits) => model.send({ kind, choices: said(changed) });
  return (
    <div class="nbl-workbench">
      <Form form={form} edits={edits} onEdit={setEdits} onChange={(changed) => send("plan", changed)} />
      <PlanView
        form={form}
        isLoading={status !== "idle" && !isOver(status)}
        onLoad={() => send("load", edits)}
        onDownload={() => send("download", edits)}
      />
    </div>
  );
}

function Load({ model, state, silent }: { model: Model; state: State; silent: number }) {
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
      {!state.summary?.already_loaded && (
        <Shards state={state} names={model.get("_shards")} lanes={model.get("_lanes")} />
      )}
      <Log state={state} />
      {/* At the end: what comes last moves nothing. */}
      <Diagnosis told={model.get("_diagnosis")} />
    </>
  );
}
