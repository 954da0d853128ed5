import { describe, expect, it } from "vitest";
import { layout } from "../src/lanes";
import type { Lanes } from "../src/wire";

const MB = 1e6;
const shards = { names: ["one"], bytes: [100 * MB], shards: 1 };
const NONE: Lanes = {
  resident: [],
  read: [],
  to_place: [],
  placed: [],
  read_started: [],
  read_ended: [],
  place_started: [],
  place_ended: [],
  downloaded: [],
  cached: [],
  download_started: [],
  download_ended: [],
};
type Moves = (number | null)[];
const whole = [100 * MB, 100 * MB, null, null];
/** The lanes of which each has these values, in the order of the columns. */
const lanesOf = (...rows: Moves[]): Lanes =>
  Object.fromEntries(
    Object.keys(NONE).map((column, place) => [column, rows.map((row) => row[place])]),
  ) as unknown as Lanes;
const lane = (moves: Moves, now = 10, download: Moves = whole) =>
  layout(shards, lanesOf([...moves, ...download]), now)[0];

describe("layout", () => {
  it("gives a lane to a shard of which nothing is known yet", () => {
    const [only] = layout(shards, NONE, 5);
    expect(only).toMatchObject({ name: "one", read: null, place: null, rate: null, status: "waiting" });
  });

  it("draws reading and placing where they were in time", () => {
    const drawn = lane([0, 100 * MB, 100 * MB, 100 * MB, 2, 4, 5, 6]);
    expect(drawn?.read).toEqual({ left: 20, width: 20 });
    expect(drawn?.place).toEqual({ left: 50, width: 10 });
    expect(drawn).toMatchObject({ readSeconds: 2, placeSeconds: 1, status: "placed" });
  });

  it("counts what was resident as no speed", () => {
    expect(lane([60 * MB, 100 * MB, 100 * MB, 0, 2, 4, null, null])?.rate).toBe(20 * MB);
    expect(lane([100 * MB, 100 * MB, 100 * MB, 0, null, null, null, null])).toMatchObject({
      rate: null,
      status: "resident",
    });
  });

  it("takes no speed from a few pages that were missing", () => {
    expect(lane([99 * MB, 100 * MB, 100 * MB, 0, 2, 4, null, null])?.rate).toBeNull();
  });

  it("lets a bar that has not ended grow to now", () => {
    expect(lane([0, 30 * MB, 100 * MB, 0, 5, null, null, null])).toMatchObject({
      read: { left: 50, width: 50 },
      status: "reading",
    });
    expect(lane([0, 100 * MB, 100 * MB, MB, 1, 2, 9, null])?.status).toBe("placing");
  });

  it("keeps a bar visible and inside the chart, however short or late", () => {
    for (const [started, ended] of [
      [0, 0],
      [9.9999, 10],
      [10, 10],
      [10.5, 11],
    ] as const) {
      const bar = lane([0, MB, MB, 0, started, ended, null, null])?.read;
      expect(bar?.width).toBeGreaterThan(0);
      expect((bar?.left ?? 0) + (bar?.width ?? 0)).toBeLessThanOrEqual(100.0001);
    }
  });

  it("draws the download, and its rate until something is read", () => {
    const still = [0, 0, 100 * MB, 0, null, null, null, null];
    expect(lane(still, 10, [60 * MB, 20 * MB, 6, null])).toMatchObject({
      download: { left: 60, width: 40 },
      rate: 10 * MB,
      status: "downloading",
    });
    expect(lane(still, 10, [20 * MB, 20 * MB, null, null])?.status).toBe("waiting");
    expect(lane(still, 10, [100 * MB, 0, 2, 4])?.status).toBe("downloaded");
    const read = [100 * MB, 100 * MB, 100 * MB, 0, null, null, null, null];
    expect(lane(read, 10, [100 * MB, 0, 2, 4])).toMatchObject({ rate: 50 * MB, status: "read" });
  });

  it("takes a file behind the shards for one that is only downloaded", () => {
    const times = [0, 0, 0, 0, null, null, null, null, 8 * MB, 0, 1, 2];
    const [, file] = layout(
      { names: ["one", "tokenizer.json"], bytes: [MB, 8 * MB], shards: 1 },
      lanesOf(times, times),
      4,
    );
    expect(file).toMatchObject({ name: "tokenizer.json", status: "downloaded", rate: 8 * MB });
  });

  it("says nothing of a chart that has no time yet", () => {
    expect(lane([0, 0, MB, 0, 0, null, null, null], 0)?.read).toBeNull();
  });
});
