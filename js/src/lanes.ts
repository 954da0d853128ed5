// The shard chart's layout: from what is known of the shards to where their bars lie. Pure; no DOM.

import type { ShardNames, ShardTimes } from "./state";

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

function statusOf(bytes: number, isShard: boolean, times: ShardTimes): LaneStatus {
  const [resident, read, toPlace, placed, readStarted, , placeStarted, , downloaded, , downloadStarted] =
    times;
  if (downloaded < bytes) {
    return downloadStarted === null ? "waiting" : "downloading";
  }
  if (!isShard) {
    return "downloaded";
  }
  if (placeStarted !== null) {
    return placed >= toPlace ? "placed" : "placing";
  }
  if (read >= bytes) {
    return resident >= bytes && downloadStarted === null ? "resident" : "read";
  }
  if (readStarted === null) {
    return downloadStarted === null ? "waiting" : "downloaded";
  }
  return "reading";
}

function rateOf(moved: number, duration: number | null, bytes: number): number | null {
  return duration !== null && duration > 0 && moved >= LEAST_SHARE * bytes ? moved / duration : null;
}

/** Lays out one lane a shard, and one for each other file that is downloaded, over the time from 0 to `now` seconds. */
export function layout(shards: ShardNames, times: readonly ShardTimes[], now: number): Lane[] {
  return shards.names.map((name, index) => {
    const bytes = shards.bytes[index] ?? 0;
    const known: ShardTimes = times[index] ?? [0, 0, 0, 0, null, null, null, null, bytes, bytes, null, null];
    const [resident, read, , , readStarted, readEnded, placeStarted, placeEnded] = known;
    const [downloaded, cached, downloadStarted, downloadEnded] = known.slice(8) as [
      number,
      number,
      number | null,
      number | null,
    ];
    const downloadSeconds = seconds(downloadStarted, downloadEnded, now);
    const readSeconds = seconds(readStarted, readEnded, now);
    return {
      name,
      bytes,
      download: bar(downloadStarted, downloadEnded, now, now),
      read: bar(readStarted, readEnded, now, now),
      place: bar(placeStarted, placeEnded, now, now),
      rate:
        readSeconds === null
          ? rateOf(downloaded - cached, downloadSeconds, bytes)
          : rateOf(read - resident, readSeconds, bytes),
      downloadSeconds,
      readSeconds,
      placeSeconds: seconds(placeStarted, placeEnded, now),
      status: statusOf(bytes, index < shards.shards, known),
    };
  });
}
