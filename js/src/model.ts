// The widget's model: what Python sends, by trait, and what is sent back.

import type { AnyModel } from "@anywidget/types";
import type { State, Traits } from "./wire";

/** The part of anywidget's model that is used. */
export type Model = Pick<AnyModel<Traits>, "get" | "send"> & {
  on(event: string, listener: () => void): void;
  off(event: string, listener: () => void): void;
};

/** What had been moved, and what was in use, at one moment. */
export type Sample = Traits["_samples"][number];

/** The traits that are drawn. */
export const TRAITS = [
  "_texts",
  "_state",
  "_now",
  "_shards",
  "_lanes",
  "_samples",
  "_form",
  "_runs",
  "_diagnosis",
] as const;

/** A click names its load: the next one may have begun by the time it arrives. */
export function cancel(model: Model, number: number): void {
  model.send({ kind: "cancel", number });
}

export const isOver = ({ status, gone }: State): boolean =>
  gone !== null || ["ready", "downloaded", "failed", "cancelled"].includes(status);
