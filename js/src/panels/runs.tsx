import { duration, fill, size } from "../format";
import { named, texts } from "../texts";
import type { Run, Runs as RunsView } from "../wire";

const PHASES: Record<string, string> = { download: "download", weights: "place", device: "read" };

/** The loads of this model so far, the newest first: a line and a bar each, all at one scale. */
export function Runs({ state, onClear }: { state: RunsView; onClear: () => void }) {
  const longest = Math.max(...state.runs.map((run) => run.seconds), 0);
  return (
    <section class="nbl-runs">
      <h4>
        {texts.runs.title}
        {state.runs.length > 0 && (
          <button type="button" class="nbl-link" onClick={onClear}>
            {texts.runs.clear}
          </button>
        )}
      </h4>
      {state.runs.length === 0 ? (
        <p class="nbl-note">{texts.runs.none}</p>
      ) : (
        <>
          {state.note && <p class="nbl-note nbl-mixed">⚠ {state.note}</p>}
          <ol class="nbl-run-list">
            {state.runs.map((run) => (
              <Row key={run.time} run={run} longest={longest} />
            ))}
          </ol>
        </>
      )}
    </section>
  );
}

function Row({ run, longest }: { run: Run; longest: number }) {
  const options = Object.entries(run.options).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  const share = (seconds: number) => `${longest > 0 ? (seconds / longest) * 100 : 0}%`;
  const figures = [
    run.rate === null ? "" : `${size(run.rate)}/s`,
    run.observed_peak === null ? "" : `${texts.runs.peak} ${size(run.observed_peak)}`,
    run.predicted_peak === null ? "" : `(${fill(texts.runs.predicted, { size: size(run.predicted_peak) })})`,
    `${texts.runs.cache} ${named(texts.runs, run.cache)}`,
    run.verdict === null || run.verdict === undefined ? "" : named(texts.verdict, run.verdict),
  ];
  return (
    <li class="nbl-run">
      <span class="nbl-run-options">{options.join(", ") || texts.runs.defaults}</span>
      <span class="nbl-run-time">{duration(run.seconds)}</span>
      <span class="nbl-run-bar" title={run.stages.map(told).join("\n")}>
        {run.stages.map(([name, start, end]) => (
          <span
            key={name}
            class={`nbl-run-part nbl-${PHASES[name] ?? "other"}`}
            style={{ left: share(start), width: share(end - start) }}
          />
        ))}
      </span>
      <span class="nbl-run-figures">{figures.filter(Boolean).join(" · ").replace(" · (", " (")}</span>
    </li>
  );
}

const told = ([name, start, end]: readonly [string, number, number]): string =>
  `${named(texts.stage, name)}: ${duration(end - start)}`;
