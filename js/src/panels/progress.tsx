import { percent } from "../format";
import { isOver } from "../model";
import { texts } from "../texts";
import type { Now, State } from "../wire";

/** The bar, and the one line that says what happens. */
export function Progress({ state, now }: { state: State; now: Now }) {
  return (
    <section class="nbl-progress">
      <div
        class={`nbl-bar nbl-is-${state.word}`}
        role="progressbar"
        aria-label={texts.panel.progress}
        aria-valuenow={Math.floor(now.fraction * 100)}
        aria-valuetext={`${percent(now.fraction)} ${now.line}`}
      >
        <div class="nbl-fill" style={{ width: `${now.fraction * 100}%` }} />
      </div>
      {!isOver(state) && (
        <p class="nbl-headline">
          <strong class="nbl-percent">{percent(now.fraction)}</strong> <span>{now.line}</span>
        </p>
      )}
    </section>
  );
}
