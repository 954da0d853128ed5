// The panel: what is drawn of a load and of a workbench, and in which order.

import { useEffect, useRef, useState } from "preact/hooks";
import { cancel, isOver, type Model } from "./model";
import { Diagnosis } from "./panels/diagnosis";
import { Folded, Result } from "./panels/folded";
import { type Edits, Form, said } from "./panels/form";
import { Header } from "./panels/header";
import { Log } from "./panels/log";
import { Outcome } from "./panels/outcome";
import { PlanView, Summary } from "./panels/plan";
import { Progress } from "./panels/progress";
import { Runs } from "./panels/runs";
import { Timeline } from "./panels/timeline";
import type { Store } from "./store";
import { texts } from "./texts";
import type { Form as FormView, State } from "./wire";

/** The whole panel: a workbench, a load, or both. */
export function Panel({ model, store, silent }: { model: Model; store: Store; silent: number }) {
  const [state, now, form] = [model.get("_state"), model.get("_now"), model.get("_form")];
  return (
    <>
      <Header
        state={state}
        now={now}
        onCancel={() => cancel(model, state.number)}
        onUnload={() => model.send({ kind: "unload" })}
      />
      {form !== null && <Workbench model={model} form={form} state={state} />}
      {(form === null || state.status !== "idle" || state.gone !== null) && (
        <Load model={model} store={store} silent={silent} />
      )}
      {form !== null && (
        <Runs
          state={model.get("_runs")}
          onClear={() => model.send({ kind: "clear_history" })}
          onUse={(choice) => model.send({ kind: "use_run", choice })}
        />
      )}
    </>
  );
}

/** Moves the keyboard on after a click here: to Cancel, or to the first choice of a question; takes it from nobody. */
function useFocus(state: State): (from: HTMLElement | null) => void {
  const root = useRef<Element | null>(null);
  const isRunning = state.status === "running" || state.status === "queued";
  useEffect(() => {
    const { activeElement } = document;
    if (
      root.current !== null &&
      isRunning &&
      (activeElement === document.body || root.current.contains(activeElement))
    ) {
      const found = root.current.querySelector(
        state.question === null ? ".nbl-cancel" : ".nbl-question button",
      );
      (found as HTMLElement | null)?.focus({ preventScroll: true });
    }
  }, [isRunning, state.question?.number]);
  return (from) => {
    root.current = from?.closest(".nbl-panel") ?? null;
  };
}

/** The form, and beside it what it will cost; one line once a load has begun, until somebody wants to change it. */
function Workbench({ model, form, state }: { model: Model; form: FormView; state: State }) {
  const [edits, setEdits] = useState<Edits>({});
  const [changes, setChanges] = useState(false);
  const send = (kind: string, changed: Edits) => model.send({ kind, choices: said(changed) });
  const isIdle = state.status === "idle" && state.gone === null;
  const isOpen = isIdle || changes;
  const follow = useFocus(state);
  const begin = (act: () => void) => () => {
    follow(document.activeElement as HTMLElement | null);
    setChanges(false);
    act();
  };
  return (
    <>
      {form.resident !== "" && isIdle && (
        <div class="nbl-summary nbl-resident">
          <span class="nbl-cost">✓ {form.resident}</span>
          <button type="button" class="nbl-button" onClick={() => model.send({ kind: "use_resident" })}>
            {texts.form.use_resident}
          </button>
          <button type="button" class="nbl-button" onClick={() => model.send({ kind: "unload" })}>
            {texts.panel.unload}
          </button>
        </div>
      )}
      {isOpen ? (
        <>
          <Summary
            form={form}
            isLoading={!isIdle && !isOver(state)}
            onLoad={begin(() => send("load", edits))}
            onDownload={begin(() => send("download", edits))}
          />
          <div class="nbl-workbench">
            <Form form={form} edits={edits} onEdit={setEdits} onChange={(changed) => send("plan", changed)} />
            <PlanView
              form={form}
              onChoice={(choice) => begin(() => model.send({ kind: "load_so", choice }))()}
            />
          </div>
        </>
      ) : (
        <div class="nbl-summary">
          <code class="nbl-code">{form.code.split("\n")[0]}</code>
          <button type="button" class="nbl-button" onClick={() => setChanges(true)}>
            {texts.form.change}
          </button>
        </div>
      )}
    </>
  );
}

function Load({ model, store, silent }: { model: Model; store: Store; silent: number }) {
  const [state, now] = [model.get("_state"), model.get("_now")];
  const [opens, setOpens] = useState(isRemembered);
  // Nobody should have to unfold what went wrong.
  const folds = isOver(state) && state.status !== "failed";
  const isOpen = !folds || opens;
  const toggle = () => {
    remember(!opens);
    setOpens(!opens);
  };
  return (
    <>
      {folds ? (
        <Folded state={state} now={now} isOpen={isOpen} onToggle={toggle} />
      ) : (
        state.question === null && <Progress state={state} now={now} />
      )}
      <Outcome
        state={state}
        now={now}
        silent={silent}
        onCancel={() => cancel(model, state.number)}
        onAnswer={(question, choice) =>
          model.send({ kind: "answer", number: state.number, question, choice })
        }
        onCancelOther={(number) => cancel(model, number)}
      />
      {state.code !== "" && <Result code={state.code} />}
      {isOpen && (
        <>
          {state.question === null && !state.summary?.already_loaded && (
            <Timeline state={state} now={now} names={model.get("_shards")} store={store} />
          )}
          <Diagnosis told={model.get("_diagnosis")} />
        </>
      )}
      {(isOpen || state.log.some((line) => line.needs_attention)) && <Log state={state} />}
    </>
  );
}

const MEMORY = "nbloader.unfolded";

/** Whether loads that are over are shown unfolded; a page may have no storage. */
function isRemembered(): boolean {
  try {
    return localStorage.getItem(MEMORY) === "true";
  } catch {
    return false;
  }
}

function remember(isUnfolded: boolean): void {
  try {
    localStorage.setItem(MEMORY, String(isUnfolded));
  } catch {
    // Then it is not remembered.
  }
}
