// Numbers as text. Widths stay the same while a number changes, so that nothing jumps.

import { texts } from "./texts";

const UNITS = [
  ["TB", 1e12],
  ["GB", 1e9],
  ["MB", 1e6],
  ["kB", 1e3],
] as const;

/** Bytes in decimal units, three figures: "1.07 GB", "250 MB". */
export function size(bytes: number): string {
  for (const [unit, factor] of UNITS) {
    const value = bytes / factor;
    // What would be rounded to 1000 of the smaller unit is 1.00 of this one.
    if (value >= 0.9995) return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${unit}`;
  }
  return `${Math.round(bytes)} B`;
}

/** In tenths of a second: a clock and a duration show the same. */
const tenthsOf = (seconds: number): number => Math.round(seconds * 10);

/** A clock of running time: "0:04.2", "1:02:03". */
export function clock(seconds: number): string {
  const tenths = tenthsOf(seconds);
  const total = Math.floor(tenths / 10);
  const [hours, minutes, rest] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  const two = (value: number) => String(value).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}.${tenths % 10}`;
}

/** A duration, as short as it can be said: "12 ms", "3.4 s", "2 min 5 s". */
export function duration(seconds: number): string {
  if (seconds < 0.9995) {
    return fill(texts.unit.milliseconds, { count: Math.round(seconds * 1000) });
  }
  if (seconds < 99.95) {
    return fill(texts.unit.seconds, { count: (tenthsOf(seconds) / 10).toFixed(1) });
  }
  const whole = Math.round(seconds);
  return fill(texts.unit.minutes, { minutes: Math.floor(whole / 60), seconds: whole % 60 });
}

export const percent = (fraction: number): string => `${Math.floor(fraction * 100)} %`;

/** Fills the {names} of a text. */
export function fill(text: string, values: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}
