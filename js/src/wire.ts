// What Python sends. Written from src/nbloader/_views/wire.py by scripts/generate.py.

/** A stage of the load; `detail` describes its result. */
export interface Stage {
  name: string;
  started: number | null;
  ended: number | null;
  detail: string;
}

/** A device's memory. */
export interface Accelerator {
  name: string;
  total: number;
  used: number;
}

/** The memory of this process, the host and each device. */
export interface Memory {
  total: number;
  available: number;
  process: number;
  accelerators: readonly Accelerator[];
}

/** What unloading freed: each place with its use before and after; `holders` are what still refers to the model. */
export interface Gone {
  places: readonly (readonly [string, number, number])[];
  holders: readonly string[];
  successor: string;
}

/** What a load without progress waits for, as text; `bytes` moved recently, too few to count as progress. */
export interface Stall {
  since: number;
  text: string;
  stack: string;
  is_working: boolean;
  bytes: number;
  offers_cancel: boolean;
}

/** The model that was loaded. */
export interface Summary {
  already_loaded: boolean;
  model_class: string;
  parameters: number;
  bytes: number;
  dtype: string;
  device: string;
}

/** A line of the log; `needs_attention` is a warning about this load. */
export interface LogLine {
  t: number;
  level: string;
  needs_attention: boolean;
  text: string;
}

/** A question, or an error with choices; an answer is the index of a choice. */
export interface Asked {
  kind: string;
  code: string;
  message: string;
  choices: readonly (readonly [string, number | null])[];
  files: readonly string[];
}

/** A question that the load waits for the user to answer. */
export interface Question {
  kind: string;
  code: string;
  message: string;
  choices: readonly (readonly [string, number | null])[];
  files: readonly string[];
  number: number;
}

/** Why the chosen options cannot be planned. */
export interface Problem {
  kind: string;
  code: string;
  page: string;
  message: string;
  hint: string;
}

/** Why a load failed; `page` explains the code, and is empty if no docs are hosted. */
export interface Failure {
  kind: string;
  code: string;
  message: string;
  choices: readonly (readonly [string, number | null])[];
  files: readonly string[];
  page: string;
  hint: string;
}

/** The current load. `number` identifies it in messages; `ahead` lists (number, name) of the loads before it. */
export interface State {
  number: number;
  status: "idle" | "queued" | "running" | "ready" | "downloaded" | "failed" | "cancelled";
  cancelling: boolean;
  name: string;
  doing: string;
  commit: string | null;
  stage: string | null;
  fraction: number;
  elapsed: number;
  rate: number | null;
  eta: number | null;
  stalled_for: number;
  all: readonly [number, number];
  download: readonly [number, number];
  read: readonly [number, number];
  place: readonly [number, number];
  readers: number;
  resident: number;
  ahead: readonly (readonly [number, string])[];
  stall: Stall | null;
  gone: Gone | null;
  stages: readonly Stage[];
  memory: Memory | null;
  predicted_peak: number | null;
  observed_peak: number | null;
  log: readonly LogLine[];
  question: Question | null;
  error: Failure | null;
  summary: Summary | null;
}

/** The constant part of the lanes: the first `shards` files are shards, the others are other downloaded files. */
export interface ShardNames {
  names: readonly string[];
  bytes: readonly number[];
  shards: number;
}

/** The changing part of the lanes, by column, in the order of `ShardNames`. `cached` are the bytes that were on disk before the load. A file that is not a shard is neither read nor placed. */
export interface Lanes {
  resident: readonly number[];
  read: readonly number[];
  to_place: readonly number[];
  placed: readonly number[];
  read_started: readonly (number | null)[];
  read_ended: readonly (number | null)[];
  place_started: readonly (number | null)[];
  place_ended: readonly (number | null)[];
  downloaded: readonly number[];
  cached: readonly number[];
  download_started: readonly (number | null)[];
  download_ended: readonly (number | null)[];
}

/** A choice of a field; `why` is the reason that it cannot be chosen, empty if it can. */
export interface FieldChoice {
  value: string;
  why: string;
}

/** A field of the form; `why` is the reason that it does not apply, empty if it does. */
export interface Field {
  name: string;
  kind: "choice" | "text" | "number" | "flag";
  value: string;
  choices: readonly FieldChoice[];
  why: string;
}

/** A group of fields. */
export interface FieldGroup {
  name: string;
  fields: readonly Field[];
}

/** The memory that a device needs, by part, and the memory that is free. */
export interface DeviceRoom {
  name: string;
  needed: number;
  available: number | null;
  verdict: string | null;
  parts: readonly (readonly [string, number])[];
}

/** The cost of a load. `devices` is null if only the load decides where weights go; `seconds` is a range. */
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
  devices: readonly DeviceRoom[] | null;
  offloaded: number;
  verdict: string | null;
  kv_cache: number | null;
  kv_tokens: number;
  seconds: readonly [number, number] | null;
}

/** The workbench: options, the call that reproduces them, and what they will cost. */
export interface Form {
  groups: readonly FieldGroup[];
  code: string;
  plan: Plan | null;
  planning: boolean;
  error: Problem | null;
}

/** A past load; stages as (name, start, end). */
export interface Run {
  time: string;
  options: Readonly<Record<string, unknown>>;
  seconds: number;
  stages: readonly (readonly [string, number, number])[];
  rate: number | null;
  observed_peak: number | null;
  predicted_peak: number | null;
  cache: "warm" | "cold" | "partly";
  verdict: string | null;
}

/** The past loads of this model, the newest first, and what to know before comparing them. */
export interface Runs {
  runs: readonly Run[];
  note: string;
}

/** Where the time of a load went: parts as (key, name, seconds), facts as (name, fact), remedies as (text, code). */
export interface Diagnosis {
  measuring: boolean;
  verdict: string;
  parts: readonly (readonly [string, string, number])[];
  facts: readonly (readonly [string, string])[];
  remedies: readonly (readonly [string, string])[];
}

/** The widget's traits. */
export interface Traits {
  _state: State;
  _shards: ShardNames;
  _lanes: Lanes;
  _form: Form | null;
  _runs: Runs;
  _diagnosis: Diagnosis | null;
  _texts: Readonly<Record<string, Readonly<Record<string, string>>>>;
  _anchor: string;
}
