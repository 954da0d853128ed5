// The shard chart's layout: from what is known of the shards to where their bars lie. Pure; no DOM.

import type { ShardNames, ShardTimes } from "./state";

/** A bar, as percent of the chart's width. */
export interface Bar {
  left: number;
  width: number;
}

export type LaneStatus = "waiting" | "reading" | "resident" | "read" | "placing" | "placed";

export interface Lane {
  name: string;
  bytes: number;
  read: Bar | null;
  place: Bar | null;
  /** Bytes a second while it was read from storage; null where nothing was. */
  rate: number | null;
  /** Seconds that reading and placing took. */
  readSeconds: number | null;
  placeSeconds: number | null;
  status: LaneStatus;
}

const MIN_WIDTH = 0.4; // percent: a shard that took a millisecond is still to be seen

function bar(started: number | null, ended: number | null, now: number, span: number): Bar | null {
  if (started === null || span <= 0) {
    return null;
  }
  const left = Math.min((started / span) * 100, 100 - MIN_WIDTH);
  const width = (((ended ?? now) - started) / span) * 100;
  return { left, width: Math.min(Math.max(width, MIN_WIDTH), 100 - left) };
}

function seconds(started: number | null, ended: number | null, now: number): number | null {
  return started === null ? null : (ended ?? now) - started;
}

function statusOf(bytes: number, times: ShardTimes): LaneStatus {
  const [resident, read, toPlace, placed, readStarted, , placeStarted] = times;
  if (placeStarted !== null) {
    return placed >= toPlace ? "placed" : "placing";
  }
  if (read >= bytes) {
    return resident >= bytes ? "resident" : "read";
  }
  return readStarted === null ? "waiting" : "reading";
}

/** Lays out one lane a shard over the time from 0 to `now` seconds. */
export function layout(shards: ShardNames, times: readonly ShardTimes[], now: number): Lane[] {
  return shards.names.map((name, index) => {
    const bytes = shards.bytes[index] ?? 0;
    const known: ShardTimes = times[index] ?? [0, 0, 0, 0, null, null, null, null];
    const [resident, read, , , readStarted, readEnded, placeStarted, placeEnded] = known;
    const readSeconds = seconds(readStarted, readEnded, now);
    return {
      name,
      bytes,
      read: bar(readStarted, readEnded, now, now),
      place: bar(placeStarted, placeEnded, now, now),
      rate: readSeconds !== null && readSeconds > 0 ? (read - resident) / readSeconds : null,
      readSeconds,
      placeSeconds: seconds(placeStarted, placeEnded, now),
      status: statusOf(bytes, known),
    };
  });
}
