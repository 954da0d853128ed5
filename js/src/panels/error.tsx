import { fill } from "../format";
import { texts } from "../texts";
import type { Problem } from "../wire";

/** What went wrong and what to do, with the code that the docs explain. */
export function ErrorText({ error }: { error: Problem }) {
  return (
    <>
      <strong>{fill(texts.panel.error, { kind: error.kind })}</strong>{" "}
      {error.page === "" ? (
        <code>{error.code}</code>
      ) : (
        <a href={error.page} target="_blank" rel="noopener noreferrer">
          <code>{error.code}</code>
        </a>
      )}
      <p>{error.message}</p>
      <p class="nbl-hint">{error.hint}</p>
    </>
  );
}
