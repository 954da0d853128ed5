import { duration } from "../format";
import { isOver } from "../model";
import { named, texts } from "../texts";
import type { Stage, State } from "../wire";

/** Every stage, from the start, with how long it took: rows never come or go. */
export function Stages({ state }: { state: State }) {
  return (
    <section class="nbl-stages">
      <h4>{texts.panel.stages}</h4>
      <ol>
        {state.stages.map((stage) => (
          <Row key={stage.name} stage={stage} state={state} />
        ))}
      </ol>
    </section>
  );
}

function Row({ stage, state }: { stage: Stage; state: State }) {
  const open = stage.started !== null && stage.ended === null;
  const mark = stage.ended !== null ? "✓" : !open ? "○" : isOver(state.status) ? "✕" : "●";
  const kind = stage.ended !== null ? "done" : !open ? "todo" : isOver(state.status) ? "stopped" : "open";
  const took = stage.started === null ? null : (stage.ended ?? state.elapsed) - stage.started;
  return (
    <li class={`nbl-stage nbl-stage-${kind}`} aria-current={kind === "open" ? "step" : undefined}>
      <span class="nbl-mark" aria-hidden="true">
        {mark}
      </span>
      <span class="nbl-stage-name">{named(texts.stage, stage.name)}</span>
      <span class="nbl-stage-detail" title={stage.detail}>
        {stage.detail}
      </span>
      <span class="nbl-stage-time">{took === null ? "" : duration(took)}</span>
    </li>
  );
}
