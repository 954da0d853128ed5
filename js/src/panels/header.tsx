import { duration, fill, size } from "../format";
import { isOver } from "../model";
import { named, texts } from "../texts";
import type { Now, State, Summary } from "../wire";

const MARKS: Record<string, string> = {
  idle: "○",
  queued: "◌",
  asking: "?",
  ready: "✓",
  downloaded: "✓",
  failed: "✕",
  cancelled: "⊘",
  gone: "○",
};

const END = 12; // letters of a name that are always shown: they tell "…-8B" from "…-70B"

/** What is loaded, how it stands, how long it has taken, and the way to stop it or to give it back. */
export function Header(props: { state: State; now: Now; onCancel: () => void; onUnload: () => void }) {
  const { state, now, onCancel, onUnload } = props;
  const isReady = state.status === "ready";
  return (
    <div class="nbl-header">
      <span class={`nbl-status nbl-is-${state.word}`}>
        <span class="nbl-mark" aria-hidden="true">
          {MARKS[state.word] ?? "●"}
        </span>
        {named(texts.status, state.word)}
      </span>
      <span class="nbl-name" title={[state.name, state.commit].filter(Boolean).join(" · ")}>
        <span class="nbl-name-start">{state.name.slice(0, -END)}</span>
        <span>{state.name.slice(-END)}</span>
      </span>
      {state.commit !== null && !isReady && <code class="nbl-commit">{state.commit.slice(0, 7)}</code>}
      {state.status === "ready" && state.summary !== null ? (
        <span class="nbl-clock" role="status" title={summaryText(state.summary, now)}>
          {summaryText(state.summary, now)}
        </span>
      ) : (
        <span class="nbl-clock" role="timer" aria-label={texts.panel.elapsed}>
          {clockText(state, now)}
        </span>
      )}
      {(isReady || !(state.status === "idle" || isOver(state))) && (
        <button
          type="button"
          class="nbl-button nbl-cancel"
          disabled={!isReady && state.cancelling}
          onClick={isReady ? onUnload : onCancel}
        >
          {isReady ? texts.panel.unload : state.cancelling ? texts.panel.cancelling : texts.panel.cancel}
        </button>
      )}
    </div>
  );
}

function clockText(state: State, now: Now): string {
  if (now.elapsed === 0) {
    return "";
  }
  const elapsed = duration(now.elapsed);
  return now.eta === null || isOver(state)
    ? elapsed
    : fill(texts.panel.of_about, { elapsed, total: duration(now.elapsed + now.eta) });
}

function summaryText(summary: Summary, now: Now): string {
  const { bytes, dtype, device, model_class } = summary;
  const known = { model_class, bytes: size(bytes), dtype, device, seconds: duration(now.elapsed) };
  return fill(summary.already_loaded ? texts.panel.already : texts.panel.summary, known);
}
