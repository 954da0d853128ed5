// The widget's model: what Python sends, by trait, and what is sent back.

import type { AnyModel } from "@anywidget/types";
import type { State, Traits } from "./wire";

/** The part of anywidget's model that is used. */
export type Model = Pick<AnyModel<Traits>, "get" | "send"> & {
  on(event: string, listener: () => void): void;
  off(event: string, listener: () => void): void;
};

/** The traits that are drawn. */
export const TRAITS = ["_texts", "_state", "_shards", "_lanes", "_form", "_runs", "_diagnosis"] as const;

/** A click names its load: the next one may have begun by the time it arrives. */
export function cancel(model: Model, number: number): void {
  model.send({ kind: "cancel", number });
}

export const isOver = (status: State["status"]): boolean =>
  status === "ready" || status === "downloaded" || status === "failed" || status === "cancelled";
