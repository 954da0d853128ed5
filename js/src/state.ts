// What Python sends, by the names it sends it under (nbloader/_publisher.py). Nothing is computed here.

export type Status = "idle" | "queued" | "running" | "ready" | "failed" | "cancelled";

/** Bytes done and bytes to do. */
export type Done = readonly [done: number, toDo: number];

export interface Stage {
  name: string;
  started: number | null;
  ended: number | null;
  detail: string;
}

export interface Accelerator {
  name: string;
  total: number;
  used: number;
}

export interface Memory {
  total: number;
  available: number;
  process: number;
  accelerators: readonly Accelerator[];
}

export interface Summary {
  model_class: string;
  parameters: number;
  bytes: number;
  dtype: string;
  device: string;
}

export interface LogLine {
  t: number;
  level: string;
  text: string;
}

export interface PanelState {
  status: Status;
  cancelling: boolean;
  name: string;
  commit: string | null;
  stage: string | null;
  fraction: number;
  elapsed: number;
  rate: number | null;
  eta: number | null;
  stalled_for: number;
  all: Done;
  download: Done;
  read: Done;
  place: Done;
  /** Reads under way at once, the last time that any were. */
  readers: number;
  resident: number;
  stages: readonly Stage[];
  memory: Memory | null;
  predicted_peak: number | null;
  observed_peak: number | null;
  log: readonly LogLine[];
  error: { kind: string; message: string; hint: string } | null;
  summary: Summary | null;
}

/** The lanes' fixed part: the shards, and behind them the other files that are downloaded. */
export interface ShardNames {
  names: readonly string[];
  bytes: readonly number[];
  /** How many of them are shards. */
  shards: number;
}

/** One lane's moving part; times in seconds since the load began. A file that is no shard is not read or placed. */
export type ShardTimes = readonly [
  resident: number,
  read: number,
  toPlace: number,
  placed: number,
  readStarted: number | null,
  readEnded: number | null,
  placeStarted: number | null,
  placeEnded: number | null,
  /** Bytes on disk, and those of them that were there before; all of both where nothing is downloaded. */
  downloaded: number,
  cached: number,
  downloadStarted: number | null,
  downloadEnded: number | null,
];

export const isOver = (status: Status): boolean =>
  status === "ready" || status === "failed" || status === "cancelled";
