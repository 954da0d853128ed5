import { describe, expect, it } from "vitest";
import { axisOf, nice, rates, shardRows, stageRows, ticks, used, valueAt } from "../src/timeline";
import type { Lane, Now, State } from "../src/wire";

const stage = (name: string, started: number | null, ended: number | null, detail = "") => ({
  name,
  started,
  ended,
  detail,
});
const state = (changes: Partial<State>): State =>
  ({ status: "running", began: 0, expected: {}, stages: [], ...changes }) as State;
const now = (changes: Partial<Now>): Now => ({ elapsed: 0, eta: null, ...changes }) as Now;

describe("the axis", () => {
  it.each([
    [0.9, 1],
    [1.2, 2],
    [2, 2],
    [3, 5],
    [7, 10],
    [0.013, 0.02],
  ])("takes steps of 1, 2 and 5: %d gives %d", (value, step) => expect(nice(value)).toBeCloseTo(step, 9));

  it("reaches to the expected end", () => {
    expect(axisOf(4.1, 3.4, false, null)).toEqual({ end: 8, step: 1 });
    expect(axisOf(600, 100, false, null)).toEqual({ end: 720, step: 120 });
  });

  it("changes in steps only, and never ends before now", () => {
    let axis = axisOf(1, null, false, null);
    const ends = new Set<number>();
    for (let elapsed = 1; elapsed < 100; elapsed += 0.1) {
      axis = axisOf(elapsed, null, false, axis);
      ends.add(axis.end);
      expect(axis.end).toBeGreaterThanOrEqual(elapsed);
      expect(ticks(axis).length).toBeLessThanOrEqual(10);
    }
    expect(ends.size).toBeLessThan(40);
  });

  it("ends with the load", () => {
    expect(axisOf(7.3, null, true, { end: 20, step: 5 })).toEqual({ end: 7.3, step: 1 });
    expect(ticks({ end: 7.3, step: 1 }).at(-1)).toBe(7);
  });
});

describe("the stages", () => {
  const stages = [
    stage("resolve", 1, 1.1, "folder"),
    stage("check", 1.1, 1.2),
    stage("imports", 1.2, 3.2),
    stage("weights", 3.2, null),
    stage("device", null, null),
  ];

  it("share rows, and count from when the load began to work", () => {
    const rows = stageRows(state({ began: 1, stages }), now({ elapsed: 4.2 }), false);
    expect(rows.map(({ name, progress }) => [name, progress])).toEqual([
      ["find", "done"],
      ["imports", "done"],
      ["weights", "open"],
      ["finish", "todo"],
    ]);
    expect(rows[0]?.took).toBeCloseTo(0.2);
    expect(rows[0]?.detail).toBe("folder");
    expect(rows[2]?.spans[0]?.from).toBeCloseTo(2.2);
    expect(rows[2]?.spans[0]?.to).toBeCloseTo(3.2);
  });

  it("are expected after what earlier loads took, within the time that is left", () => {
    const expected = { weights: 4, device: 1 };
    const rows = stageRows(state({ stages, expected }), now({ elapsed: 4.2, eta: 8 }), false);
    expect(rows[1]?.expected).toBeNull();
    expect(rows[2]?.expected?.from).toBeCloseTo(4.2);
    expect(rows[2]?.expected?.to).toBeCloseTo(4.2 + 6);
    expect(rows[3]?.expected?.to).toBeCloseTo(4.2 + 8);
  });

  it("without an earlier load, the open one takes the time that is left", () => {
    const rows = stageRows(state({ stages }), now({ elapsed: 4.2, eta: 2 }), false);
    expect(rows.map((row) => row.expected !== null)).toEqual([false, false, true, false]);
  });

  it("that were open when the load ended have stopped, and nothing more is expected", () => {
    const rows = stageRows(state({ stages, expected: { device: 1 } }), now({ elapsed: 5, eta: 2 }), true);
    expect(rows.map((row) => row.progress)).toEqual(["done", "done", "stopped", "todo"]);
    expect(rows.every((row) => row.expected === null)).toBe(true);
  });
});

describe("the shards", () => {
  const lane: Lane = {
    resident: 0,
    read: 0,
    to_place: 100,
    placed: 0,
    read_started: null,
    read_ended: null,
    place_started: null,
    place_ended: null,
    downloaded: 100,
    cached: 100,
    download_started: null,
    download_ended: null,
  };
  const statusOf = (changes: Partial<Lane>, isOver = false, shards = 1) =>
    shardRows(
      { names: ["a"], bytes: [100], shards },
      [{ ...lane, ...changes }],
      state({}),
      now({ elapsed: 5 }),
      isOver,
    )[0]?.status;

  it.each([
    [{}, "waiting", "stopped"],
    [{ downloaded: 10 }, "waiting", "stopped"],
    [{ downloaded: 10, download_started: 1 }, "downloading", "stopped"],
    [{ download_started: 1 }, "downloaded", "downloaded"],
    [{ read_started: 1, read: 20 }, "reading", "stopped"],
    [{ read: 100, resident: 100 }, "resident", "resident"],
    [{ read: 100, resident: 20 }, "read", "read"],
    [{ read: 100, place_started: 2, placed: 50 }, "placing", "stopped"],
    [{ read: 100, place_started: 2, placed: 100 }, "placed", "placed"],
  ])("%j is %s, and %s once the load is over", (changes, status, after) => {
    expect(statusOf(changes)).toBe(status);
    expect(statusOf(changes, true)).toBe(after);
  });

  it("other files are downloaded, and no more", () => {
    expect(statusOf({ download_started: 1 }, false, 0)).toBe("downloaded");
  });

  it("lie where they were moved, until now while they still are", () => {
    const [row] = shardRows(
      { names: ["a"], bytes: [100], shards: 1 },
      [{ ...lane, read_started: 1.5, read_ended: 2, place_started: 3 }],
      state({ began: 1 }),
      now({ elapsed: 5 }),
      false,
    );
    expect(row?.spans).toEqual({ download: null, read: { from: 0.5, to: 1 }, place: { from: 2, to: 4 } });
  });
});

describe("the curves", () => {
  const samples = [
    [0, 0, 0, 0, 10, [1]],
    [1, 0, 100, 0, 20, [2]],
    [3, 0, 100, 50, 30, [3]],
  ] as const;

  it("are bytes a second of each phase", () => {
    expect(rates(samples, "read", 0)).toEqual([
      [1, 100],
      [3, 0],
    ]);
    expect(rates(samples, "place", 1)).toEqual([
      [0, 0],
      [2, 25],
    ]);
    expect(rates(samples, "download", 0)).toEqual([]);
  });

  it("are memory in use", () => {
    expect(used(samples, null, 0).map(([, value]) => value)).toEqual([10, 20, 30]);
    expect(used(samples, 0, 0).map(([, value]) => value)).toEqual([1, 2, 3]);
  });

  it("have the value of the last point", () => {
    const curve = used(samples, null, 0);
    expect([valueAt(curve, -1), valueAt(curve, 0.5), valueAt(curve, 9)]).toEqual([null, 10, 30]);
  });
});
