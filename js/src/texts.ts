// The texts a person reads, shared with Python.

import texts from "../../src/nbloader/locale/en.json";

export { texts };

/** A text by key, or the key itself: a newer Python may name what this bundle does not know. */
export const named = (group: Record<string, string>, key: string): string => group[key] ?? key;
