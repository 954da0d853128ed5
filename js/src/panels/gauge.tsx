/** How much of a whole is held, as text and as a bar; a mark may stand where it was foretold. */
export function Gauge(props: {
  label: string;
  figures: string;
  held: number;
  total: number;
  kind: string;
  mark?: number | null;
}) {
  const { label, figures, held, total, kind, mark = null } = props;
  const share = (bytes: number) => `${total > 0 ? Math.min((bytes / total) * 100, 100) : 0}%`;
  return (
    <div class="nbl-gauge">
      <span class="nbl-gauge-label">{label}</span>
      <span class="nbl-gauge-figures">{total > 0 ? figures : "–"}</span>
      {/* biome-ignore lint/a11y/useSemanticElements: a <meter> cannot carry the mark */}
      <span
        class="nbl-gauge-bar"
        role="meter"
        aria-label={label}
        aria-valuemin={0}
        aria-valuemax={Math.max(total, held)}
        aria-valuenow={held}
        aria-valuetext={figures}
      >
        <span class={`nbl-gauge-fill nbl-gauge-${kind}`} style={{ width: share(held) }} />
        {mark !== null && <span class="nbl-gauge-mark" style={{ left: share(mark) }} />}
      </span>
    </div>
  );
}
