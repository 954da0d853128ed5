import { clock } from "../format";
import { isOver } from "../model";
import { named, texts } from "../texts";
import type { State } from "../wire";

const MARKS: Record<string, string> = {
  idle: "○",
  queued: "◌",
  running: "●",
  asking: "?",
  ready: "✓",
  downloading: "●",
  downloaded: "✓",
  failed: "✕",
  cancelled: "⊘",
  gone: "○",
};

/** What is loaded, how it stands, how long it has taken, and the way to stop it or to give it back. */
export function Header(props: { state: State; onCancel: () => void; onUnload: () => void }) {
  const { state, onCancel, onUnload } = props;
  const isReady = state.status === "ready";
  const willLoad = state.stages.some((stage) => stage.name === "weights");
  const doing = state.status === "running" && !willLoad ? "downloading" : state.status;
  const status = state.gone !== null ? "gone" : state.question === null ? doing : "asking";
  return (
    <div class="nbl-header">
      <span class={`nbl-status nbl-is-${status}`}>
        <span class="nbl-mark" aria-hidden="true">
          {MARKS[status] ?? "●"}
        </span>
        {named(texts.status, status)}
      </span>
      <span class="nbl-name" title={state.name}>
        {state.name}
      </span>
      {state.commit !== null && (
        <code class="nbl-commit" title={state.commit}>
          {state.commit.slice(0, 7)}
        </code>
      )}
      <span class="nbl-clock" role="timer" aria-label={texts.panel.elapsed}>
        {clock(state.elapsed)}
      </span>
      <button
        type="button"
        class="nbl-button nbl-cancel"
        disabled={!isReady && (state.status === "idle" || isOver(state.status) || state.cancelling)}
        onClick={isReady ? onUnload : onCancel}
      >
        {isReady ? texts.panel.unload : state.cancelling ? texts.panel.cancelling : texts.panel.cancel}
      </button>
    </div>
  );
}
