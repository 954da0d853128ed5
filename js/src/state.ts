// What Python sends, by the names it sends it under (nbloader/_views/view.py). Nothing is computed here.

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

/** Sizes in bytes; `holders` say who refers to the model still. */
export interface Gone {
  places: readonly (readonly [name: string, before: number, after: number])[];
  holders: readonly string[];
  successor: string;
}

/** What a load that makes no progress waits for; `since` in seconds since it began. */
export interface Stall {
  since: number;
  text: string;
  /** Where its threads are. */
  stack: string;
  /** Whether something is done for it all the same. */
  is_working: boolean;
  /** What moved lately, too little to be progress. */
  bytes: number;
  offers_cancel: boolean;
}

export interface Summary {
  already_loaded?: boolean;
  model_class: string;
  parameters: number;
  bytes: number;
  dtype: string;
  device: string;
}

export interface LogLine {
  t: number;
  level: string;
  /** Whether it warns of this load; what libraries say as they are imported does not. */
  needs_attention: boolean;
  text: string;
}

export interface PanelState {
  /** The load's number, by which it is cancelled. */
  number: number;
  status: Status;
  cancelling: boolean;
  name: string;
  /** What the stage under way does, in words. */
  doing: string;
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
  /** The loads that this one waits for, the one under way first. */
  ahead: readonly (readonly [number: number, name: string])[];
  stall: Stall | null;
  /** What unloading gave back; null while the model is there. */
  gone: Gone | null;
  stages: readonly Stage[];
  memory: Memory | null;
  predicted_peak: number | null;
  observed_peak: number | null;
  log: readonly LogLine[];
  /** What the load waits for somebody to choose. */
  question: (Asked & { number: number }) | null;
  error: (Asked & { hint: string }) | null;
  summary: Summary | null;
}

/** A question, or an error that choices can help: the place of a choice is its answer. */
export interface Asked {
  kind: string;
  message: string;
  choices: readonly (readonly [label: string, bytes: number | null])[];
  files: readonly string[];
}

export interface Field {
  name: string;
  kind: "choice" | "text" | "number" | "flag";
  value: string;
  choices: readonly { value: string; why: string }[];
  /** Why the field does not apply; empty where it does. */
  why: string;
}

/** What a load will cost (nbloader/_views/workbench.py); sizes in bytes. */
export interface Plan {
  format: string;
  shards: number;
  tensors: number;
  parameters: number;
  by_dtype: readonly (readonly [string, number])[];
  download: number;
  read: number;
  place: number;
  placed_as: string;
  host: readonly (readonly [string, number])[];
  peak: number;
  available: number | null;
  host_verdict: string | null;
  /** What each device takes, by part; null where that is known at the load only. */
  devices: readonly DevicePlan[] | null;
  /** Bytes that stay on disk. */
  offloaded: number;
  verdict: string | null;
  kv_cache: number | null;
  kv_tokens: number;
  seconds: readonly [number, number] | null;
}

export interface DevicePlan {
  name: string;
  parts: readonly (readonly [string, number])[];
  needed: number;
  /** What is free there; null where that is not known. */
  available: number | null;
  verdict: string | null;
}

export interface FormState {
  groups: readonly { name: string; fields: readonly Field[] }[];
  code: string;
  plan: Plan | null;
  planning: boolean;
  error: { kind: string; message: string; hint: string } | null;
}

/** One load of the past (nbloader/_analysis/history.py). */
export interface Run {
  time: string;
  options: Readonly<Record<string, unknown>>;
  seconds: number;
  stages: readonly (readonly [name: string, start: number, end: number])[];
  rate: number | null;
  observed_peak: number | null;
  predicted_peak: number | null;
  cache: "warm" | "cold" | "partly";
  verdict: string | null;
}

export interface RunsState {
  runs: readonly Run[];
  note: string;
}

/** Where the time of a load went (nbloader/_analysis/diagnosis.py), in words but for the seconds. */
export interface DiagnosisState {
  measuring: boolean;
  verdict: string;
  parts: readonly (readonly [key: string, name: string, seconds: number])[];
  facts: readonly (readonly [name: string, fact: string])[];
  remedies: readonly (readonly [text: string, lines: string])[];
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
