// The lanes and samples of a load: what Python sent whole, with the changes that it has sent since.

import { type Model, type Sample, TRAITS } from "./model";
import type { Lane } from "./wire";

export interface Store {
  lanes(): readonly Lane[];
  samples(): readonly Sample[];
  stop(): void;
}

/** Follows a model. Every change counts, so this listens even while nothing is drawn. */
export function follow(model: Model): Store {
  let lanes: Lane[] = [];
  let samples: Sample[] = [];
  let seen: Record<"_lanes" | "_samples" | "_now", unknown> = { _lanes: null, _samples: null, _now: null };
  const take = (): void => {
    const [whole, all, now] = [model.get("_lanes"), model.get("_samples"), model.get("_now")];
    if (whole !== seen._lanes) {
      lanes = [...(whole ?? [])];
    }
    if (all !== seen._samples) {
      samples = [...(all ?? [])];
    }
    if (now !== seen._now) {
      for (const [index, lane] of Object.entries(now?.lanes ?? {})) {
        lanes[Number(index)] = lane;
      }
      const last = samples.at(-1)?.[0] ?? -1;
      samples.push(...(now?.samples ?? []).filter(([seconds]) => seconds > last));
    }
    seen = { _lanes: whole, _samples: all, _now: now };
  };
  for (const trait of TRAITS) {
    model.on(`change:${trait}`, take);
  }
  take();
  return {
    lanes: () => lanes,
    samples: () => samples,
    stop() {
      for (const trait of TRAITS) {
        model.off(`change:${trait}`, take);
      }
    },
  };
}
