// What remains of a load that is over: what it made, where its time went, and how to get the model.

import { duration, fill, size } from "../format";
import { isOver } from "../model";
import { named, texts } from "../texts";
import { stageRows } from "../timeline";
import type { Now, State } from "../wire";
import { Copy } from "./copy";

const NAMED = 0.16; // share of the bar that has room for a name

/** The bar of a load that is over, and the button that shows all of it. */
export function Folded(props: { state: State; now: Now; isOpen: boolean; onToggle: () => void }) {
  const { state, now, isOpen, onToggle } = props;
  const whole = Math.max(now.elapsed - state.began, 1e-3);
  const spans = stageRows(state, now, isOver(state)).flatMap((row) =>
    row.spans.map((span) => ({ ...span, row, share: (span.to - span.from) / whole })),
  );
  return (
    <div class="nbl-folded">
      <button
        type="button"
        class="nbl-fold"
        aria-expanded={isOpen}
        aria-label={isOpen ? texts.timeline.fold : texts.timeline.unfold}
        onClick={onToggle}
      >
        {isOpen ? "▾" : "▸"}
      </button>
      <span class={`nbl-whole nbl-is-${state.word}`} aria-hidden="true">
        {spans.map(({ row, from, to, share }) => (
          <span
            key={`${row.name} ${from}`}
            class={`nbl-bar-of nbl-of-${row.name}`}
            style={{ left: `${(from / whole) * 100}%`, width: `${share * 100}%` }}
            title={`${named(texts.row, row.name)}: ${duration(to - from)}`}
          >
            {share >= NAMED && `${named(texts.row, row.name)} ${duration(to - from)}`}
          </span>
        ))}
      </span>
      {now.peak !== null && (
        <span class="nbl-peak-text">{fill(texts.timeline.peak, { size: size(now.peak) })}</span>
      )}
    </div>
  );
}

/** The line that gives the model to the user's program. */
export function Result({ code }: { code: string }) {
  return (
    <div class="nbl-result">
      <code>{code}</code>
      <Copy code={code} label={texts.diagnosis.copy} />
    </div>
  );
}
