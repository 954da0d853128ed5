import { duration, fill, size } from "../format";
import type { PanelState } from "../state";
import { texts } from "../texts";
import { Choices } from "./choices";

/** How the load ended, in one line; for a failure what happened and what to do; before that, what it asks. */
export function Outcome({ state, onAnswer }: { state: PanelState; onAnswer: (choice: number) => void }) {
  if (state.question !== null) {
    return (
      <div class="nbl-outcome nbl-question" role="alert">
        <strong>{texts.panel.question}</strong>
        <p>{state.question.message}</p>
        <Choices asked={state.question} onAnswer={onAnswer} />
      </div>
    );
  }
  if (state.status === "failed" && state.error !== null) {
    return (
      <div class="nbl-outcome nbl-is-failed" role="alert">
        <strong>{state.error.kind}</strong>
        <p>{state.error.message}</p>
        <p class="nbl-hint">{state.error.hint}</p>
        <Choices asked={state.error} onAnswer={onAnswer} />
      </div>
    );
  }
  if (state.status === "ready" && state.summary !== null) {
    const { bytes, dtype, device, model_class } = state.summary;
    return (
      <p class="nbl-outcome nbl-is-ready" role="status">
        <strong>{model_class}</strong>{" "}
        {fill(texts.panel.ready, { bytes: size(bytes), seconds: duration(state.elapsed), dtype, device })}
      </p>
    );
  }
  if (state.status === "cancelled") {
    return (
      <p class="nbl-outcome nbl-is-cancelled" role="status">
        {texts.panel.cancelled}
      </p>
    );
  }
  return <p class="nbl-outcome">{"\u00a0"}</p>;
}
