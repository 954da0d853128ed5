import { duration, fill, percent, size } from "../format";
import { texts } from "../texts";
import type { State } from "../wire";

const STALL = 2; // seconds without a byte that are worth a word

function movement(state: State): string {
  if (state.status !== "running" || state.stall !== null) {
    return "";
  }
  // Before it is known what is to be moved, nothing is missed.
  if (state.stalled_for >= STALL && state.all[1] > 0) {
    return fill(texts.panel.stalled, { seconds: Math.floor(state.stalled_for) });
  }
  const parts = [];
  if (state.rate !== null) {
    parts.push(fill(texts.panel.rate, { rate: size(state.rate) }));
  }
  if (state.eta !== null) {
    parts.push(fill(texts.panel.eta, { time: duration(state.eta) }));
  }
  if (state.readers > 0 && state.read[0] < state.read[1]) {
    parts.push(fill(texts.panel.readers, { count: state.readers }));
  }
  return parts.join(" · ") || state.doing;
}

/** The one overall bar, and below it each phase's own. */
export function Progress({ state }: { state: State }) {
  const [done, toDo] = state.all;
  return (
    <section class="nbl-progress">
      <div
        class={`nbl-bar nbl-is-${state.status}`}
        role="progressbar"
        aria-label={texts.panel.progress}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.floor(state.fraction * 100)}
      >
        <div class="nbl-fill" style={{ width: `${state.fraction * 100}%` }} />
      </div>
      <div class="nbl-figures">
        <strong class="nbl-percent">{percent(state.fraction)}</strong>
        <span>{toDo > 0 ? fill(texts.panel.moved, { done: size(done), total: size(toDo) }) : ""}</span>
        <span class="nbl-movement">{movement(state)}</span>
      </div>
      <div class="nbl-phases">
        <Phase name="download" done={state.download} note={toDo > 0 ? texts.panel.cached : ""} />
        <Phase
          name="read"
          done={state.read}
          note=""
          {...(state.resident > 0
            ? { extra: fill(texts.panel.resident, { size: size(state.resident) }) }
            : {})}
        />
        <Phase name="place" done={state.place} note="" />
      </div>
    </section>
  );
}

function Phase(props: {
  name: "download" | "read" | "place";
  done: State["all"];
  note: string;
  extra?: string;
}) {
  const [done, toDo] = props.done;
  const figures = toDo > 0 ? `${size(Math.min(done, toDo))} / ${size(toDo)}` : props.note;
  const share = toDo > 0 ? Math.min(done / toDo, 1) * 100 : 0;
  return (
    <div class="nbl-phase" title={props.extra ?? ""}>
      <span class="nbl-phase-name">{texts.phase[props.name]}</span>
      <span class="nbl-phase-bar">
        <span class={`nbl-phase-fill nbl-${props.name}`} style={{ width: `${share}%` }} />
      </span>
      <span class="nbl-phase-figures">{figures || "–"}</span>
    </div>
  );
}
