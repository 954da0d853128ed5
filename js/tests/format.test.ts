import { describe, expect, it } from "vitest";
import en from "../../src/nbloader/locale/en.json";
import { clock, duration, fill, percent, size } from "../src/format";
import { setTexts } from "../src/texts";

setTexts(en);

describe("size", () => {
  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.00 kB"],
    [12_345_678, "12.3 MB"],
    [1_073_741_824, "1.07 GB"],
    [250e9, "250 GB"],
    [999_499, "999 kB"],
    [999_600_000, "1.00 GB"],
    [9_996_000, "10.0 MB"],
    [3.2e12, "3.20 TB"],
  ])("says %d as %s", (bytes, text) => expect(size(bytes)).toBe(text));
});

describe("clock", () => {
  it.each([
    [0, "0:00.0"],
    [4.25, "0:04.3"],
    [59.99, "1:00.0"],
    [61, "1:01.0"],
    [3723.4, "1:02:03"],
  ])("says %d as %s", (seconds, text) => expect(clock(seconds)).toBe(text));
});

describe("duration", () => {
  it.each([
    [0.0004, "0 ms"],
    [0.012, "12 ms"],
    [0.9996, "1.0 s"],
    [3.44, "3.4 s"],
    [125, "2 min 5 s"],
    [119.7, "2 min 0 s"],
    [0.0005, "1 ms"],
    [2.55, "2.6 s"],
    [2.549, "2.5 s"],
    [120.5, "2 min 1 s"],
  ])("says %d as %s", (seconds, text) => expect(duration(seconds)).toBe(text));
});

it("rounds percent down: 100 % is said only when all is done", () => {
  expect(percent(0.999)).toBe("99 %");
  expect(percent(1)).toBe("100 %");
});

it("fills names, and leaves those it does not know", () => {
  expect(fill("{a} of {b} {c}", { a: 1, b: "two" })).toBe("1 of two {c}");
  expect(fill("{a}", { a: "{b}", b: "no" })).toBe("{b}");
});
