// The shard chart's layout: from what is known of the shards to where their bars lie. Pure; no DOM.

import type { Lanes, ShardNames } from "./wire";

/** A bar, as percent of the chart's width. */
export interface Bar {
  left: number;
  width: number;
}

export type LaneStatus =
  | "waiting"
  | "downloading"
  | "downloaded"
  | "reading"
  | "resident"
  | "read"
  | "placing"
  | "placed";

export interface Lane {
  name: string;
  bytes: number;
  download: Bar | null;
  read: Bar | null;
  place: Bar | null;
  /** Bytes a second while it was read from storage, or else downloaded; null where next to nothing was. */
  rate: number | null;
  /** Seconds that each took. */
  downloadSeconds: number | null;
  readSeconds: number | null;
  placeSeconds: number | null;
  status: LaneStatus;
}

const MIN_WIDTH = 0.4; // percent: a shard that took a millisecond is still to be seen
const LEAST_SHARE = 0.05; // of a file: a few pages that were missing here and there tell no storage's speed

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

/** What is known of one lane: each column's value. */
type Row = { [Column in keyof Lanes]: Lanes[Column][number] };

function rowOf(lanes: Lanes, index: number, bytes: number): Row {
  return {
    resident: lanes.resident?.[index] ?? 0,
    read: lanes.read?.[index] ?? 0,
    to_place: lanes.to_place?.[index] ?? 0,
    placed: lanes.placed?.[index] ?? 0,
    read_started: lanes.read_started?.[index] ?? null,
    read_ended: lanes.read_ended?.[index] ?? null,
    place_started: lanes.place_started?.[index] ?? null,
    place_ended: lanes.place_ended?.[index] ?? null,
    downloaded: lanes.downloaded?.[index] ?? bytes,
    cached: lanes.cached?.[index] ?? bytes,
    download_started: lanes.download_started?.[index] ?? null,
    download_ended: lanes.download_ended?.[index] ?? null,
  };
}

function statusOf(bytes: number, isShard: boolean, row: Row): LaneStatus {
  if (row.downloaded < bytes) {
    return row.download_started === null ? "waiting" : "downloading";
  }
  if (!isShard) {
    return "downloaded";
  }
  if (row.place_started !== null) {
    return row.placed >= row.to_place ? "placed" : "placing";
  }
  if (row.read >= bytes) {
    return row.resident >= bytes && row.download_started === null ? "resident" : "read";
  }
  if (row.read_started === null) {
    return row.download_started === null ? "waiting" : "downloaded";
  }
  return "reading";
}

function rateOf(moved: number, duration: number | null, bytes: number): number | null {
  return duration !== null && duration > 0 && moved >= LEAST_SHARE * bytes ? moved / duration : null;
}

/** Lays out one lane a shard, and one for each other file that is downloaded, over the time from 0 to `now` seconds. */
export function layout(shards: ShardNames, lanes: Lanes, now: number): Lane[] {
  return shards.names.map((name, index) => {
    const bytes = shards.bytes[index] ?? 0;
    const row = rowOf(lanes, index, bytes);
    const downloadSeconds = seconds(row.download_started, row.download_ended, now);
    const readSeconds = seconds(row.read_started, row.read_ended, now);
    return {
      name,
      bytes,
      download: bar(row.download_started, row.download_ended, now, now),
      read: bar(row.read_started, row.read_ended, now, now),
      place: bar(row.place_started, row.place_ended, now, now),
      rate:
        readSeconds === null
          ? rateOf(row.downloaded - row.cached, downloadSeconds, bytes)
          : rateOf(row.read - row.resident, readSeconds, bytes),
      downloadSeconds,
      readSeconds,
      placeSeconds: seconds(row.place_started, row.place_ended, now),
      status: statusOf(bytes, index < shards.shards, row),
    };
  });
}
