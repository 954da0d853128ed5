import { fill, size } from "../format";
import { isOver } from "../model";
import { texts } from "../texts";
import type { Gone, Now, Stall, State } from "../wire";
import { Choices, Files } from "./choices";
import { ErrorText } from "./error";

const SILENT_SECONDS = 15;

/** How the load ended, in one line; for a failure what happened and what to do; before that, what it waits for. */
export function Outcome(props: {
  state: State;
  now: Now;
  /** Seconds since the kernel was last heard of. */
  silent: number;
  /** `question` is the number of what is asked, 0 for an error. */
  onAnswer: (question: number, choice: number) => void;
  onCancel: () => void;
  onCancelOther: (number: number) => void;
}) {
  const { state, now, silent, onAnswer, onCancel, onCancelOther } = props;
  const { question } = state;
  // A load that is under way is told of twice a second: only a kernel that is gone, or very busy, is this silent.
  if (silent >= SILENT_SECONDS && !isOver(state) && state.status !== "idle") {
    return (
      <div class="nbl-outcome nbl-question" role="status">
        <p>{fill(texts.panel.silent, { seconds: silent })}</p>
      </div>
    );
  }
  if (state.status === "queued" && state.ahead.length > 0) {
    return <Line ahead={state.ahead} onCancel={onCancelOther} />;
  }
  if (state.gone !== null) {
    return <Given gone={state.gone} />;
  }
  if (question !== null) {
    return (
      <div class="nbl-outcome nbl-question" role="alert">
        <p>{question.message}</p>
        {question.files.length > 0 && <Files files={question.files} />}
        <Choices asked={question} onAnswer={(choice) => onAnswer(question.number, choice)}>
          {question.kind === "RemoteCodeError" && (
            <button type="button" class="nbl-button" onClick={onCancel}>
              {texts.panel.do_not_run}
            </button>
          )}
        </Choices>
      </div>
    );
  }
  if (state.stall !== null && !state.cancelling) {
    return <Stalled stall={state.stall} elapsed={now.elapsed} onCancel={onCancel} />;
  }
  if (state.status === "failed" && state.error !== null) {
    return (
      <div class="nbl-outcome nbl-is-failed" role="alert">
        <ErrorText error={state.error} />
        <Choices asked={state.error} onAnswer={(choice) => onAnswer(0, choice)} />
      </div>
    );
  }
  if (state.status === "downloaded") {
    return (
      <p class="nbl-outcome nbl-is-ready" role="status">
        {texts.panel.downloaded}
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
  return null;
}

/** The loads ahead, in order, each with the way to cancel it. */
function Line({ ahead, onCancel }: { ahead: State["ahead"]; onCancel: (number: number) => void }) {
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

/** What a load that makes no progress waits for, where its threads are and, after a while, the way out. */
function Stalled(props: { stall: Stall; elapsed: number; onCancel: () => void }) {
  const { stall, elapsed, onCancel } = props;
  return (
    <div class="nbl-outcome nbl-question nbl-stall" role="status">
      {/* A clock that ticks is no news to be read aloud. */}
      <strong aria-live="off">
        {fill(stall.bytes > 0 ? texts.panel.little_progress : texts.panel.no_progress, {
          seconds: Math.floor(elapsed - stall.since),
        })}
      </strong>
      <p>
        {stall.text} {stall.is_working ? texts.panel.slow : texts.panel.stuck}
      </p>
      <details>
        <summary>{texts.panel.stacks}</summary>
        <pre>{stall.stack}</pre>
      </details>
      {stall.offers_cancel && (
        <button type="button" class="nbl-button" onClick={onCancel}>
          {texts.panel.give_up}
        </button>
      )}
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
