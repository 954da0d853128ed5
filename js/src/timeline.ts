// The layout of the timeline: from what is known of a load to where its bars and curves lie. Pure; no DOM.
// Times are in seconds since the load began to work.

import type { Sample } from "./model";
import type { Lane, Now, ShardNames, Stage, State } from "./wire";

/** The time axis: from 0 to `end`, with a tick at every multiple of `step`. */
export interface Axis {
  end: number;
  step: number;
}

export interface Span {
  from: number;
  to: number;
}

/** Stages that share a row, as the person who waits sees them. */
const ROWS: Record<string, readonly string[]> = {
  find: ["resolve", "check"],
  prepare: ["tokenizer", "config"],
  finish: ["device", "metadata"],
};
const ROW_OF: Record<string, string> = Object.fromEntries(
  Object.entries(ROWS).flatMap(([row, stages]) => stages.map((stage) => [stage, row])),
);

/** The row of a stage. */
export const rowOf = (stage: string): string => ROW_OF[stage] ?? stage;

export type Progress = "todo" | "open" | "done" | "stopped";

export interface StageRow {
  name: string;
  progress: Progress;
  spans: readonly Span[];
  /** Where it should lie, by earlier loads. */
  expected: Span | null;
  /** Seconds so far; null before it began. */
  took: number | null;
  detail: string;
}

const SLACK = 1.25; // of the time so far, where nobody knows how long the load takes
const MINUTE = 60;

/** The least of 1, 2 and 5 times a power of ten that is at least `value`. */
export function nice(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * (([1, 2, 5] as const).find((factor) => factor * power >= value * (1 - 1e-9)) ?? 10);
}

/** The axis for a load. It changes in steps, so that bars do not shrink all the time; `before` is the last one. */
export function axisOf(
  elapsed: number,
  eta: number | null,
  isOver: boolean,
  before: Axis | null,
  most = 8, // ticks
): Axis {
  const wanted = Math.max(isOver ? elapsed : eta === null ? elapsed * SLACK : elapsed + eta, 0.01);
  const least = wanted / most;
  const step = least > MINUTE / 2 ? MINUTE * nice(least / MINUTE) : nice(least);
  if (isOver) {
    return { end: wanted, step };
  }
  if (before !== null && before.end >= Math.max(elapsed, wanted) && before.end <= 2 * wanted) {
    return before;
  }
  return { end: Math.ceil(wanted / step) * step, step };
}

/** The times of an axis's ticks. */
export function ticks({ end, step }: Axis): number[] {
  return Array.from({ length: Math.floor(end / step + 1e-6) + 1 }, (_, index) => index * step);
}

const since = (state: State, seconds: number): number => Math.max(0, seconds - state.began);

/** One row for each group of stages, with what is left of each by earlier loads, scaled to the time that is left. */
export function stageRows(state: State, now: Now, isOver: boolean): StageRow[] {
  const elapsed = since(state, now.elapsed);
  const names = [...new Set(state.stages.map((stage) => rowOf(stage.name)))];
  const rows = names.map((name) => {
    const stages = state.stages.filter((stage) => rowOf(stage.name) === name);
    const begun = stages.filter((stage) => stage.started !== null);
    const spans = begun.map((stage) => ({
      from: since(state, stage.started ?? 0),
      to: stage.ended === null ? elapsed : since(state, stage.ended),
    }));
    return {
      name,
      progress: progressOf(stages, isOver),
      spans,
      expected: null,
      took: begun.length > 0 ? spans.reduce((sum, span) => sum + span.to - span.from, 0) : null,
      detail: begun.flatMap((stage) => (stage.detail === "" ? [] : [stage.detail])).join(", "),
      left: isOver ? 0 : stages.reduce((sum, stage) => sum + leftOf(stage, state, now), 0),
    };
  });
  const total = rows.reduce((sum, row) => sum + row.left, 0);
  let from = elapsed;
  return rows.map(({ left, ...row }) => {
    // Without an earlier load, only what is done now can be told.
    const share = total > 0 ? left / total : row.progress === "open" ? 1 : 0;
    if (share === 0 || now.eta === null) {
      return row;
    }
    const to = from + share * now.eta;
    const expected = { from, to };
    from = to;
    return { ...row, expected };
  });
}

function progressOf(stages: readonly Stage[], isOver: boolean): Progress {
  if (stages.some((stage) => stage.started !== null && stage.ended === null)) {
    return isOver ? "stopped" : "open";
  }
  return stages.every((stage) => stage.started === null) ? "todo" : "done";
}

/** Seconds that a stage should still take. */
function leftOf(stage: Stage, state: State, now: Now): number {
  if (stage.ended !== null) {
    return 0;
  }
  const worked = stage.started === null ? 0 : now.elapsed - stage.started;
  return Math.max((state.expected[stage.name] ?? 0) - worked, 0);
}

export const PHASES = ["download", "read", "place"] as const;
export type Phase = (typeof PHASES)[number];

export type ShardStatus =
  | "waiting"
  | "downloading"
  | "downloaded"
  | "reading"
  | "resident"
  | "read"
  | "placing"
  | "placed"
  | "stopped";

export interface ShardRow {
  name: string;
  bytes: number;
  status: ShardStatus;
  spans: Readonly<Record<Phase, Span | null>>;
}

/** One row for each shard, and for each other file that is downloaded. */
export function shardRows(
  shards: ShardNames,
  lanes: readonly Lane[],
  state: State,
  now: Now,
  isOver: boolean,
): ShardRow[] {
  const span = (started: number | null, ended: number | null): Span | null =>
    started === null ? null : { from: since(state, started), to: since(state, ended ?? now.elapsed) };
  return lanes.map((lane, index) => {
    const bytes = shards.bytes[index] ?? 0;
    return {
      name: shards.names[index] ?? "",
      bytes,
      status: statusOf(lane, bytes, index < shards.shards, isOver),
      spans: {
        download: span(lane.download_started, lane.download_ended),
        read: span(lane.read_started, lane.read_ended),
        place: span(lane.place_started, lane.place_ended),
      },
    };
  });
}

function statusOf(lane: Lane, bytes: number, isShard: boolean, isOver: boolean): ShardStatus {
  const going = <Status extends ShardStatus>(status: Status): ShardStatus => (isOver ? "stopped" : status);
  if (lane.downloaded < bytes) {
    return going(lane.download_started === null ? "waiting" : "downloading");
  }
  if (!isShard) {
    return "downloaded";
  }
  if (lane.place_started !== null) {
    return lane.placed >= lane.to_place ? "placed" : going("placing");
  }
  if (lane.read >= bytes) {
    return lane.resident >= bytes && lane.download_started === null ? "resident" : "read";
  }
  if (lane.read_started === null) {
    return lane.download_started === null ? going("waiting") : "downloaded";
  }
  return going("reading");
}

/** A curve: points as (seconds, value). */
export type Curve = readonly (readonly [number, number])[];

const COLUMN: Record<Phase, 1 | 2 | 3> = { download: 1, read: 2, place: 3 };

/** Bytes a second of a phase over time; empty where none moved. */
export function rates(samples: readonly Sample[], phase: Phase, began: number): Curve {
  const column = COLUMN[phase];
  if (!samples.some((sample) => sample[column] > 0)) {
    return [];
  }
  return samples.slice(1).map((sample, index) => {
    const before = samples[index] ?? sample;
    const passed = Math.max(sample[0] - before[0], 1e-3);
    return [Math.max(0, sample[0] - began), Math.max(0, sample[column] - before[column]) / passed];
  });
}

/** Memory in use over time: of this process, or of a device by its index. */
export function used(samples: readonly Sample[], device: number | null, began: number): Curve {
  return samples.map((sample) => [
    Math.max(0, sample[0] - began),
    (device === null ? sample[4] : sample[5][device]) ?? 0,
  ]);
}

/** The value of a curve at a time: that of the last point before it; null before the first. */
export function valueAt(curve: Curve, seconds: number): number | null {
  let found: number | null = null;
  for (const [t, value] of curve) {
    if (t > seconds) {
      break;
    }
    found = value;
  }
  return found;
}

export const isIn = (span: Span | null, seconds: number): boolean =>
  span !== null && span.from <= seconds && seconds <= span.to;
