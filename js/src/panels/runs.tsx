import { duration } from "../format";
import { named, texts } from "../texts";
import { rowOf } from "../timeline";
import type { Run, Runs as RunsView } from "../wire";

/** The loads of this model so far, by their options, the newest first: all at one scale. */
export function Runs(props: { state: RunsView; onClear: () => void; onUse: (choice: number) => void }) {
  const { state, onClear, onUse } = props;
  const longest = Math.max(...state.runs.map((run) => run.seconds), 0);
  return (
    <details class="nbl-runs">
      <summary>
        {texts.runs.title} · {state.runs.length}
      </summary>
      {state.runs.length === 0 ? (
        <p class="nbl-note">{texts.runs.none}</p>
      ) : (
        <>
          {state.note && <p class="nbl-note nbl-mixed">⚠ {state.note}</p>}
          <ol class="nbl-run-list">
            {state.runs.map((run, choice) => (
              <Row key={run.title} run={run} longest={longest} onUse={() => onUse(choice)} />
            ))}
          </ol>
          <button type="button" class="nbl-link" onClick={onClear}>
            {texts.runs.clear}
          </button>
        </>
      )}
    </details>
  );
}

function Row({ run, longest, onUse }: { run: Run; longest: number; onUse: () => void }) {
  const share = (seconds: number) => `${longest > 0 ? (seconds / longest) * 100 : 0}%`;
  return (
    <li class="nbl-run">
      <span class="nbl-run-options">{run.title}</span>
      <span class="nbl-run-time">{run.time}</span>
      <button type="button" class="nbl-link" onClick={onUse}>
        {texts.runs.use}
      </button>
      <span class="nbl-whole" aria-hidden="true">
        {run.stages.map(([name, start, end]) => (
          <span
            key={name}
            class={`nbl-bar-of nbl-of-${rowOf(name)}`}
            style={{ left: share(start), width: share(end - start) }}
            title={`${named(texts.stage, name)}: ${duration(end - start)}`}
          />
        ))}
      </span>
      <span class="nbl-run-figures">{run.figures}</span>
    </li>
  );
}
