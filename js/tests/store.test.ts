import { expect, it } from "vitest";
import type { Model } from "../src/model";
import { follow } from "../src/store";
import type { Lane } from "../src/wire";

const LANE: Lane = {
  resident: 0,
  read: 0,
  to_place: 10,
  placed: 0,
  read_started: null,
  read_ended: null,
  place_started: null,
  place_ended: null,
  downloaded: 10,
  cached: 10,
  download_started: null,
  download_ended: null,
};

const sample = (seconds: number, read: number) => [seconds, 0, read, 0, 1, []] as const;

function sending(values: Record<string, unknown>) {
  const listeners = new Set<() => void>();
  const model = {
    get: (name: string) => values[name],
    send: () => {},
    on: (_: string, listener: () => void) => listeners.add(listener),
    off: (_: string, listener: () => void) => listeners.delete(listener),
  } as unknown as Model;
  const send = (changes: Record<string, unknown>) => {
    Object.assign(values, changes);
    for (const listener of listeners) {
      listener();
    }
  };
  return { model, send, listeners };
}

it("adds what has changed to what was sent whole", () => {
  const { model, send } = sending({ _lanes: [LANE, LANE], _samples: [sample(0, 0)] });
  const store = follow(model);
  send({ _now: { lanes: { "1": { ...LANE, read: 5 } }, samples: [sample(1, 5)] } });
  send({ _now: { lanes: { "0": { ...LANE, read: 3 } }, samples: [sample(2, 8)] } });
  expect(store.lanes().map((lane) => lane.read)).toEqual([3, 5]);
  expect(store.samples().map(([seconds]) => seconds)).toEqual([0, 1, 2]);
});

it("begins anew with what is sent whole, and takes no sample twice", () => {
  const { model, send } = sending({ _lanes: [LANE], _samples: [sample(0, 0)] });
  const store = follow(model);
  send({ _now: { lanes: { "0": { ...LANE, read: 5 } }, samples: [sample(1, 5)] } });
  send({
    _lanes: [{ ...LANE, read: 9 }],
    _samples: [sample(0, 0), sample(2, 9)],
    _now: { lanes: {}, samples: [sample(2, 9)] },
  });
  expect(store.lanes()[0]?.read).toBe(9);
  expect(store.samples().length).toBe(2);
});

it("listens no longer than it is followed", () => {
  const { model, listeners } = sending({ _lanes: [], _samples: [] });
  follow(model).stop();
  expect(listeners.size).toBe(0);
});
