import { clock } from "../format";
import { texts } from "../texts";
import type { State } from "../wire";

/** What there was to say, folded away until somebody wants it; warnings of the load open it. */
export function Log({ state }: { state: State }) {
  const warned = state.log.some((line) => line.needs_attention);
  return (
    <details class="nbl-log" open={warned}>
      <summary>
        {texts.panel.log} · {state.log.length}
      </summary>
      <ul>
        {state.log.map((line) => (
          <li key={`${line.t} ${line.text}`} class={`nbl-log-${line.level}`}>
            <span class="nbl-log-time">{clock(line.t)}</span> {line.level === "warning" ? "⚠ " : ""}
            {line.text}
          </li>
        ))}
      </ul>
    </details>
  );
}
