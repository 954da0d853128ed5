// What Python sends. Written from src/nbloader/_views/wire.py by scripts/generate.py.

/** A stage of the load; `detail` describes its result. */
export interface Stage {
  name: string;
  started: number | null;
  ended: number | null;
  detail: string;
}

/** A place for memory, such as the host or a device. */
export interface Place {
  name: string;
  total: number;
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

/** A question, or an error with choices; an answer is the index of a choice. `available` is how many bytes a load may take, if the question is how to stay below it. */
export interface Asked {
  kind: string;
  code: string;
  message: string;
  choices: readonly (readonly [string, number | null])[];
  files: readonly string[];
  available: number | null;
}

/** A question that the load waits for the user to answer. */
export interface Question {
  kind: string;
  code: string;
  message: string;
  choices: readonly (readonly [string, number | null])[];
  files: readonly string[];
  available: number | null;
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
  available: number | null;
  page: string;
  hint: string;
}

/** What changes rarely during a load. `number` identifies the load in messages; `word` is its status in more detail, a key of the texts. `ahead` lists (number, name) of the loads before it. `began` is when its turn came; `expected` is how long each stage took in earlier loads of its kind. `places` are the host and each device, and `code` gives the model to the user's program. */
export interface State {
  number: number;
  status: "idle" | "queued" | "running" | "ready" | "downloaded" | "failed" | "cancelled";
  word: string;
  cancelling: boolean;
  name: string;
  commit: string | null;
  stage: string | null;
  began: number;
  expected: Readonly<Record<string, number>>;
  ahead: readonly (readonly [number, string])[];
  stall: Stall | null;
  gone: Gone | null;
  stages: readonly Stage[];
  places: readonly Place[];
  predicted_peak: number | null;
  log: readonly LogLine[];
  question: Question | null;
  error: Failure | null;
  summary: Summary | null;
  code: string;
}

/** The constant part of the lanes: the first `shards` files are shards, the others are other downloaded files. */
export interface ShardNames {
  names: readonly string[];
  bytes: readonly number[];
  shards: number;
}

/** The changing part of one lane. `cached` are the bytes that were on disk before the load. A file that is not a shard is neither read nor placed. */
export interface Lane {
  resident: number;
  read: number;
  to_place: number;
  placed: number;
  read_started: number | null;
  read_ended: number | null;
  place_started: number | null;
  place_ended: number | null;
  downloaded: number;
  cached: number;
  download_started: number | null;
  download_ended: number | null;
}

/** What changes all the time, and what has changed of the lanes and samples since they were last sent whole. `lanes` are by their index, as text. `line` says what happens now. */
export interface Now {
  elapsed: number;
  fraction: number;
  line: string;
  rate: number | null;
  eta: number | null;
  peak: number | null;
  lanes: Readonly<Record<string, Lane>>;
  samples: readonly (readonly [number, number, number, number, number, readonly number[]])[];
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

/** The memory that a load needs on the host or on a device, and the memory that is free there. */
export interface Room {
  name: string;
  needed: number;
  available: number | null;
  verdict: string | null;
}

/** The cost of a load: `lines` are (label, text), and `seconds` is a range. */
export interface Plan {
  verdict: string | null;
  rooms: readonly Room[];
  lines: readonly (readonly [string, string])[];
  download: number;
  seconds: readonly [number, number] | null;
}

/** The workbench: options, the call that reproduces them, what they will cost, and what a load would ask. `resident` says that the model is loaded already, and `unloads` what a load would unload; each may be empty. `field` is the name of the field that `error` is about, or empty. */
export interface Form {
  groups: readonly FieldGroup[];
  code: string;
  plan: Plan | null;
  planning: boolean;
  error: Problem | null;
  asked: Asked | null;
  resident: string;
  unloads: string;
  field: string;
}

/** Past loads with the same options: their title, and the time, the stages and the figures of the latest. Stages are (name, start, end). */
export interface Run {
  title: string;
  time: string;
  seconds: number;
  stages: readonly (readonly [string, number, number])[];
  figures: string;
}

/** The past loads of this model by their options, the newest first, and what to know before comparing them. */
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
  _now: Now;
  _shards: ShardNames;
  _lanes: readonly Lane[];
  _samples: readonly (readonly [number, number, number, number, number, readonly number[]])[];
  _form: Form | null;
  _runs: Runs;
  _diagnosis: Diagnosis | null;
  _texts: Readonly<Record<string, Readonly<Record<string, string>>>>;
  _anchor: string;
}
