// One time axis for everything that happens in a load: stages, shards, throughput and memory.

import type { ComponentChildren, CSSProperties } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { duration, fill, size } from "../format";
import { isOver } from "../model";
import type { Store } from "../store";
import { named, texts } from "../texts";
import {
  type Axis,
  axisOf,
  type Curve,
  isIn,
  PHASES,
  type Phase,
  rates,
  type ShardRow,
  type Span,
  type StageRow,
  shardRows,
  stageRows,
  ticks,
  used,
  valueAt,
} from "../timeline";
import type { Now, ShardNames, State } from "../wire";

const MOST_ROWS = 12; // shards with a row of their own
const NARROW = 400; // pixels of a chart that has room for fewer ticks
const LAST = 0.85; // share of the axis behind which there is no room for a word
const LABELLED = 44; // pixels of a bar that has room for its seconds
const KEYS: Record<string, (at: number, axis: Axis) => number> = {
  ArrowLeft: (at, axis) => at - axis.step / 10,
  ArrowRight: (at, axis) => at + axis.step / 10,
  PageDown: (at, axis) => at - axis.step,
  PageUp: (at, axis) => at + axis.step,
  Home: () => 0,
  End: (_, axis) => axis.end,
};

interface Drawn {
  axis: Axis;
  /** Pixels of the chart's column. */
  width: number;
  elapsed: number;
  /** The mark of what did not end. */
  stopped: string;
}

/** The chart of a load. */
export function Timeline(props: { state: State; now: Now; names: ShardNames; store: Store }) {
  const { state, now, names, store } = props;
  const over = isOver(state);
  const elapsed = Math.max(0, now.elapsed - state.began);
  const axis = useRef<Axis | null>(null);
  const [cursor, setCursor] = useState<number | null>(null);
  const [folded, setFolded] = useState<Readonly<Record<string, boolean>>>({});
  const chart = useRef<HTMLDivElement>(null);
  const width = useWidth(chart);
  axis.current = axisOf(elapsed, now.eta, over, axis.current, width < NARROW ? 5 : 8);
  const stopped = state.status === "cancelled" ? "⊘" : "✕";
  const drawn: Drawn = { axis: axis.current, width, elapsed, stopped };
  const stages = stageRows(state, now, over);
  const shards = shardRows(names, store.lanes(), state, now, over);
  const samples = store.samples();
  const curves = PHASES.map((phase) => [phase, rates(samples, phase, state.began)] as const);
  const memory = state.places.map((place, index) => ({
    ...place,
    label: index === 0 ? texts.panel.process : place.name,
    curve: used(samples, index === 0 ? null : index - 1, state.began),
    predicted: index === 0 ? state.predicted_peak : null,
  }));
  const move = (at: number) => setCursor(Math.min(Math.max(at, 0), drawn.axis.end));
  const point = (event: PointerEvent) => {
    const box = chart.current?.getBoundingClientRect();
    if (box !== undefined && box.width > 0) {
      move(((event.clientX - box.left) / box.width) * drawn.axis.end);
    }
  };
  const press = (event: KeyboardEvent) => {
    const go = KEYS[event.key];
    if (go !== undefined) {
      event.preventDefault();
      move(go(cursor ?? elapsed, drawn.axis));
    } else if (event.key === "Escape") {
      setCursor(null);
    }
  };
  const group = (
    name: string,
    title: string,
    children: ComponentChildren,
    isKnown: boolean,
    aside: ComponentChildren = null,
  ) =>
    // While it runs, what is not known yet has its place, so that nothing moves.
    (isKnown || !over) && (
      <>
        <div class="nbl-row nbl-head">
          <button
            type="button"
            class="nbl-fold"
            aria-expanded={!folded[name]}
            onClick={() => setFolded({ ...folded, [name]: !folded[name] })}
          >
            <span aria-hidden="true">{folded[name] ? "▸" : "▾"}</span> {title}
          </button>
          <span class="nbl-aside">{aside}</span>
        </div>
        {!folded[name] && children}
      </>
    );
  const says = readOut(cursor ?? elapsed, stages, shards, curves, memory);
  return (
    <section class="nbl-timeline" onPointerMove={point} onPointerLeave={() => setCursor(null)}>
      <div class="nbl-row nbl-axis">
        <span />
        <div
          ref={chart}
          class="nbl-chart"
          role="slider"
          tabIndex={0}
          aria-label={texts.timeline.cursor}
          aria-valuemin={0}
          aria-valuemax={Math.round(drawn.axis.end * 10) / 10}
          aria-valuenow={Math.round((cursor ?? elapsed) * 10) / 10}
          aria-valuetext={says}
          onKeyDown={press}
          onBlur={() => setCursor(null)}
        >
          {ticks(drawn.axis).map((tick) => (
            <span key={tick} class="nbl-tick-label" style={at(tick, drawn.axis)}>
              {tickText(tick, drawn.axis.step)}
            </span>
          ))}
        </div>
        <span class="nbl-figure">{texts.timeline.took}</span>
      </div>
      <div class="nbl-rows">
        <div class="nbl-grid" aria-hidden="true">
          {ticks(drawn.axis).map((tick) => (
            <i key={tick} class="nbl-tick" style={at(tick, drawn.axis)} />
          ))}
          {!over && elapsed > 0 && (
            <i
              class={`nbl-now ${elapsed > LAST * drawn.axis.end ? "nbl-is-last" : ""}`}
              style={at(elapsed, drawn.axis)}
            >
              <b>{texts.timeline.now}</b>
            </i>
          )}
          {cursor !== null && <i class="nbl-cursor" style={at(cursor, drawn.axis)} />}
        </div>
        {group(
          "stages",
          texts.panel.stages,
          stages.map((row) => <StageLine key={row.name} row={row} drawn={drawn} />),
          true,
        )}
        {group(
          "shards",
          shardsTitle(shards, names),
          <Shards shards={shards} count={names.shards} drawn={drawn} />,
          shards.length > 0,
          <Legend />,
        )}
        {group(
          "throughput",
          texts.timeline.throughput,
          <Throughput curves={curves} now={now} drawn={drawn} />,
          curves.some(([, curve]) => curve.length > 0),
        )}
        {group(
          "memory",
          texts.panel.memory,
          memory.map((place) => <MemoryLine key={place.name} {...place} drawn={drawn} />),
          samples.length > 1,
        )}
      </div>
      <p class="nbl-read-out">{cursor === null ? "\u00a0" : says}</p>
      <Table stages={stages} shards={shards} />
    </section>
  );
}

/** The width of an element, which is looked at when it changes. */
function useWidth(ref: { current: HTMLElement | null }): number {
  const [width, setWidth] = useState(0);
  useEffect(() => {
    if (ref.current === null || typeof ResizeObserver === "undefined") {
      return;
    }
    const observer = new ResizeObserver(([entry]) => setWidth(Math.round(entry?.contentRect.width ?? 0)));
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return width;
}

const percent = (seconds: number, axis: Axis): number => Math.min((seconds / axis.end) * 100, 100);
const at = (seconds: number, axis: Axis): CSSProperties => ({ left: `${percent(seconds, axis)}%` });

function place({ from, to }: Span, axis: Axis): CSSProperties {
  return { left: `${percent(from, axis)}%`, width: `${percent(to, axis) - percent(from, axis)}%` };
}

function tickText(seconds: number, step: number): string {
  const [value, unit] =
    step >= 60
      ? [seconds / 60, texts.timeline.minutes]
      : step < 0.1
        ? [Math.round(seconds * 1000), texts.unit.milliseconds]
        : [step < 1 ? seconds.toFixed(1) : Math.round(seconds), texts.unit.seconds];
  return fill(unit, { count: value });
}

const rowName = (name: string): string => named(texts.row, name);

function StageLine({ row, drawn }: { row: StageRow; drawn: Drawn }) {
  const { axis, width } = drawn;
  const label = row.took === null ? "" : duration(row.took);
  const hasRoom = (span: Span) =>
    row.spans.length === 1 && ((span.to - span.from) / axis.end) * width >= LABELLED;
  return (
    <div
      class={`nbl-row nbl-stage nbl-is-${row.progress}`}
      aria-current={row.progress === "open" ? "step" : undefined}
      title={row.detail}
    >
      <span class="nbl-label">{rowName(row.name)}</span>
      <span class="nbl-chart">
        {row.spans.map((span) => (
          <span key={span.from} class={`nbl-bar-of nbl-of-${row.name}`} style={place(span, axis)}>
            {hasRoom(span) && label}
          </span>
        ))}
        {row.expected !== null && <span class="nbl-bar-of nbl-expected" style={place(row.expected, axis)} />}
      </span>
      <span class="nbl-figure">
        {row.progress === "stopped" ? `${drawn.stopped} ${label}` : label || "–"}
      </span>
    </div>
  );
}

function shardsTitle(shards: readonly ShardRow[], names: ShardNames): string {
  if (names.shards === 0) {
    return texts.panel.shards;
  }
  const placed = shards.filter((shard) => shard.status === "placed").length;
  return fill(texts.timeline.shards, { done: placed, count: names.shards });
}

/** What the shapes mean: striped, outlined, solid. */
function Legend() {
  return (
    <span class="nbl-legend">
      {PHASES.map((phase) => (
        <span key={phase}>
          <i class={`nbl-key nbl-${phase}`} /> {texts.phase[phase]}
        </span>
      ))}
    </span>
  );
}

function Shards({ shards, count, drawn }: { shards: readonly ShardRow[]; count: number; drawn: Drawn }) {
  const [all, setAll] = useState(false);
  if (shards.length === 0) {
    return <div class="nbl-row nbl-shard nbl-note">–</div>;
  }
  if (shards.length <= MOST_ROWS || all) {
    return (
      <div class={all ? "nbl-all" : ""}>
        {shards.map((shard, index) => (
          <div key={shard.name} class="nbl-row nbl-shard" title={shard.name}>
            <span class="nbl-label">
              <span class="nbl-number">{index < count ? index + 1 : ""}</span> {size(shard.bytes)}
              {index < count ? "" : ` ${shard.name}`}
            </span>
            <span class="nbl-chart">
              {PHASES.map((phase) => {
                const span = shard.spans[phase];
                return (
                  span && <i key={phase} class={`nbl-lane nbl-${phase}`} style={place(span, drawn.axis)} />
                );
              })}
            </span>
            <span class="nbl-figure">{shardFigure(shard)}</span>
          </div>
        ))}
      </div>
    );
  }
  return (
    <div class="nbl-row nbl-strip">
      <span class="nbl-label">
        <button type="button" class="nbl-link" onClick={() => setAll(true)}>
          {fill(texts.timeline.show_all, { count: shards.length })}
        </button>
      </span>
      <span class="nbl-chart">
        <svg viewBox={`0 0 1000 ${shards.length}`} preserveAspectRatio="none" aria-hidden="true">
          {PHASES.map((phase) => (
            <path key={phase} class={`nbl-strip-${phase}`} d={strip(shards, phase, drawn.axis)} />
          ))}
        </svg>
      </span>
      <span class="nbl-figure" />
    </div>
  );
}

/** One line for each shard, in its row: reading and downloading above, placing below. */
function strip(shards: readonly ShardRow[], phase: Phase, axis: Axis): string {
  const x = (seconds: number) => Math.round((1000 * percent(seconds, axis)) / 100);
  const height = phase === "place" ? 0.7 : 0.3;
  return shards
    .map((shard, row) => {
      const span = shard.spans[phase];
      if (span === null) {
        return "";
      }
      const [from, to] = [x(span.from), Math.max(x(span.to), x(span.from) + 2)];
      return `M${from} ${row + height}H${to}`;
    })
    .join("");
}

function shardFigure(shard: ShardRow): string {
  const { place } = shard.spans;
  if (place !== null && shard.status === "placed") {
    return duration(place.to - place.from);
  }
  return shard.status === "stopped" ? "⊘" : statusText(shard);
}

const statusText = (shard: ShardRow): string => named(texts.shard, shard.status);

const curvePath = (curve: Curve, axis: Axis, most: number): string =>
  curve
    .map(([t, value], index) => {
      const [x, y] = [10 * percent(t, axis), 100 - (most > 0 ? (100 * value) / most : 0)];
      return `${index === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join("");

const greatest = (curve: Curve): number => curve.reduce((most, [, value]) => Math.max(most, value), 0);

function Plot({ children }: { children: ComponentChildren }) {
  return (
    <svg viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true">
      {children}
    </svg>
  );
}

function Throughput(props: { curves: readonly (readonly [Phase, Curve])[]; now: Now; drawn: Drawn }) {
  const { curves, now, drawn } = props;
  const most = Math.max(...curves.map(([, curve]) => greatest(curve)), 1);
  return (
    <div class="nbl-row nbl-plot nbl-throughput">
      <span class="nbl-label">
        {most > 1 && <span class="nbl-note">{fill(texts.timeline.most, { rate: size(most) })}</span>}
      </span>
      <span class="nbl-chart">
        <Plot>
          {curves.map(([phase, curve]) => (
            <path key={phase} class={`nbl-stroke-${phase}`} d={curvePath(curve, drawn.axis, most)} />
          ))}
        </Plot>
      </span>
      <span class="nbl-figure">
        {now.rate === null ? "" : fill(texts.panel.rate, { rate: size(now.rate) })}
      </span>
    </div>
  );
}

function MemoryLine(props: {
  label: string;
  total: number;
  curve: Curve;
  predicted: number | null;
  drawn: Drawn;
}) {
  const { label, total, curve, predicted, drawn } = props;
  const most = 1.1 * Math.max(greatest(curve), predicted ?? 0, 1);
  const last = curve.at(-1)?.[1] ?? 0;
  const line = curvePath(curve, drawn.axis, most);
  const [first, end] = [curve[0]?.[0] ?? 0, curve.at(-1)?.[0] ?? 0];
  const x = (seconds: number) => (10 * percent(seconds, drawn.axis)).toFixed(1);
  return (
    <div class="nbl-row nbl-plot nbl-memory">
      <span class="nbl-label">
        {label}
        {predicted !== null && (
          <span class="nbl-note">{fill(texts.timeline.predicted, { size: size(predicted) })}</span>
        )}
      </span>
      <span class="nbl-chart">
        <Plot>
          {line !== "" && <path class="nbl-area" d={`${line}L${x(end)} 100L${x(first)} 100Z`} />}
          <path class="nbl-held" d={line} />
          {predicted !== null && <path class="nbl-peak" d={`M0 ${100 - (100 * predicted) / most}H1000`} />}
        </Plot>
      </span>
      <span class="nbl-figure">
        {size(last)}
        <span class="nbl-note">{fill(texts.timeline.of, { size: size(total) })}</span>
      </span>
    </div>
  );
}

type Place = { label: string; curve: Curve };

/** Everything at one moment, in words. */
function readOut(
  seconds: number,
  stages: readonly StageRow[],
  shards: readonly ShardRow[],
  curves: readonly (readonly [Phase, Curve])[],
  memory: readonly Place[],
): string {
  const when = fill(texts.timeline.at, { time: duration(seconds) });
  const doing = stages
    .filter((row) => row.spans.some((span) => isIn(span, seconds)))
    .map((row) => rowName(row.name));
  const moving = PHASES.flatMap((phase) => {
    const numbers = shards.flatMap((shard, index) => (isIn(shard.spans[phase], seconds) ? [index + 1] : []));
    const rate = valueAt(curves.find(([name]) => name === phase)?.[1] ?? [], seconds);
    const some = numbers.length > 4 ? [...numbers.slice(0, 3), "…"] : numbers;
    return numbers.length > 0
      ? [
          `${texts.phase[phase]} ${some.join(", ")}${rate ? ` (${fill(texts.panel.rate, { rate: size(rate) })})` : ""}`,
        ]
      : [];
  });
  const held = memory.map(({ label, curve }) => `${label} ${size(valueAt(curve, seconds) ?? 0)}`);
  return [when, ...doing, ...moving, ...held].join(" · ");
}

/** The same as a table, made only where somebody wants it. */
function Table({ stages, shards }: { stages: readonly StageRow[]; shards: readonly ShardRow[] }) {
  const [open, setOpen] = useState(false);
  const said = (span: Span | null) =>
    span === null ? "–" : fill(texts.timeline.span, { from: duration(span.from), to: duration(span.to) });
  const phases = (shard: ShardRow) =>
    PHASES.flatMap((phase) => {
      const span = shard.spans[phase];
      return span === null ? [] : [`${texts.phase[phase]} ${said(span)}`];
    }).join(", ");
  const rows = () => [
    ...stages.map((row) => [
      rowName(row.name),
      row.spans.map(said).join(", ") || "–",
      row.took === null ? "–" : duration(row.took),
      row.detail,
    ]),
    ...shards.map((shard, index) => [
      `${index + 1} ${shard.name}`,
      phases(shard) || "–",
      size(shard.bytes),
      statusText(shard),
    ]),
  ];
  return (
    <details class="nbl-table" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{texts.timeline.table}</summary>
      {open && (
        <div class="nbl-scroll">
          <table>
            {rows().map(([name, ...cells]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                {cells.map((cell, column) => (
                  <td key={column}>{cell}</td>
                ))}
              </tr>
            ))}
          </table>
        </div>
      )}
    </details>
  );
}
