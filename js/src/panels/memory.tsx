import { fill, size } from "../format";
import { isOver } from "../model";
import { texts } from "../texts";
import type { State } from "../wire";
import { Gauge } from "./gauge";

/** What this process, the host and each accelerator hold, with a mark where the peak was predicted. */
export function Memory({ state }: { state: State }) {
  const { memory, predicted_peak: predicted } = state;
  return (
    <section class="nbl-memory">
      <h4>{texts.panel.memory}</h4>
      <Held
        label={texts.panel.process}
        held={memory?.process ?? 0}
        total={memory?.total ?? 0}
        mark={predicted}
        kind="process"
      />
      <p class="nbl-note">
        {predicted === null
          ? "\u00a0"
          : fill(isOver(state.status) || state.gone !== null ? texts.panel.peaks : texts.panel.predicted, {
              predicted: size(predicted),
              observed: size(state.observed_peak ?? 0),
            })}
      </p>
      <Held
        label={texts.panel.available}
        held={memory?.available ?? 0}
        total={memory?.total ?? 0}
        kind="available"
      />
      {memory?.accelerators.map((device) => (
        <Held
          key={device.name}
          label={`${device.name} ${texts.panel.used}`}
          held={device.used}
          total={device.total}
          kind="process"
        />
      ))}
    </section>
  );
}

function Held(props: { label: string; held: number; total: number; kind: string; mark?: number | null }) {
  return <Gauge {...props} figures={`${size(props.held)} / ${size(props.total)}`} />;
}
