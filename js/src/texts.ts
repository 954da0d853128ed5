// The texts a person reads: Python sends them, in the language of whoever looks.

import type en from "../../src/nbloader/locale/en.json";

type Texts = typeof en;

export let texts = {} as Texts;

/** Takes the texts that Python has sent. */
export function setTexts(sent: unknown): void {
  texts = sent as Texts;
}

/** A text by key, or the key itself: a newer Python may name what this bundle does not know. */
export const named = (group: Record<string, string>, key: string): string => group[key] ?? key;
