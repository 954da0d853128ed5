import { fill, size } from "../format";
import type { PanelState } from "../state";
import { isOver } from "../state";
import { texts } from "../texts";

/** What this process, the host and each accelerator hold, with a mark where the peak was predicted. */
export function Memory({ state }: { state: PanelState }) {
  const { memory, predicted_peak: predicted } = state;
  return (
    <section class="nbl-memory">
      <h4>{texts.panel.memory}</h4>
      <Gauge
        label={texts.panel.process}
        held={memory?.process ?? 0}
        total={memory?.total ?? 0}
        mark={predicted}
        kind="process"
      />
      <p class="nbl-note">
        {predicted === null
          ? "\u00a0"
          : fill(isOver(state.status) ? texts.panel.peaks : texts.panel.predicted, {
              predicted: size(predicted),
              observed: size(state.observed_peak ?? 0),
            })}
      </p>
      <Gauge
        label={texts.panel.available}
        held={memory?.available ?? 0}
        total={memory?.total ?? 0}
        mark={null}
        kind="available"
      />
      {memory?.accelerators.map((device) => (
        <Gauge
          key={device.name}
          label={`${device.name} ${texts.panel.used}`}
          held={device.used}
          total={device.total}
          mark={null}
          kind="process"
        />
      ))}
    </section>
  );
}

function Gauge(props: { label: string; held: number; total: number; mark: number | null; kind: string }) {
  const { label, held, total, mark, kind } = props;
  const share = (bytes: number) => `${total > 0 ? Math.min((bytes / total) * 100, 100) : 0}%`;
  return (
    <div class="nbl-gauge">
      <span class="nbl-gauge-label">{label}</span>
      <span class="nbl-gauge-figures">{total > 0 ? `${size(held)} / ${size(total)}` : "–"}</span>
      {/* biome-ignore lint/a11y/useSemanticElements: a <meter> cannot carry the mark of the predicted peak */}
      <span
        class="nbl-gauge-bar"
        role="meter"
        aria-label={label}
        aria-valuemin={0}
        aria-valuemax={total}
        aria-valuenow={held}
      >
        <span class={`nbl-gauge-fill nbl-gauge-${kind}`} style={{ width: share(held) }} />
        {mark !== null && <span class="nbl-gauge-mark" style={{ left: share(mark) }} />}
      </span>
    </div>
  );
}
