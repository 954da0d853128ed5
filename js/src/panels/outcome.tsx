import { duration, fill, size } from "../format";
import type { Gone, PanelState } from "../state";
import { texts } from "../texts";
import { Choices } from "./choices";

/** How the load ended, in one line; for a failure what happened and what to do; before that, what it waits for. */
export function Outcome(props: {
  state: PanelState;
  onAnswer: (choice: number) => void;
  onCancelOther: (number: number) => void;
}) {
  const { state, onAnswer, onCancelOther } = props;
  if (state.status === "queued" && state.ahead.length > 0) {
    return <Line ahead={state.ahead} onCancel={onCancelOther} />;
  }
  if (state.gone !== null) {
    return <Given gone={state.gone} />;
  }
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
        {fill(state.summary.already_loaded ? texts.panel.already : texts.panel.ready, {
          bytes: size(bytes),
          seconds: duration(state.elapsed),
          dtype,
          device,
        })}
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

/** The loads ahead, in order, each with the way to cancel it. */
function Line({ ahead, onCancel }: { ahead: PanelState["ahead"]; onCancel: (number: number) => void }) {
  return (
    <div class="nbl-outcome nbl-line" role="status">
      <strong>{texts.panel.waits_for}</strong>
      <ol>
        {ahead.map(([number, name]) => (
          <li key={number}>
            <span class="nbl-line-name" title={name}>
              {name}
            </span>
            <button
              type="button"
              class="nbl-link"
              aria-label={fill(texts.panel.cancel_other, { name })}
              onClick={() => onCancel(number)}
            >
              {texts.panel.cancel}
            </button>
          </li>
        ))}
      </ol>
    </div>
  );
}

/** What unloading gave back, and who keeps the model from going. */
function Given({ gone }: { gone: Gone }) {
  const places = gone.places
    .map(([name, before, after]) =>
      fill(texts.panel.given_back, { name, before: size(before), after: size(after) }),
    )
    .join("; ");
  return (
    <div class="nbl-outcome" role="status">
      <p>
        {fill(texts.panel.unloaded, { places })}
        {gone.successor !== "" && ` ${fill(texts.panel.made_room, { name: gone.successor })}`}
      </p>
      {gone.holders.map((holder) => (
        <p class="nbl-holder" key={holder}>
          ⚠ {holder}
        </p>
      ))}
    </div>
  );
}
