import { duration } from "../format";
import { texts } from "../texts";
import type { Diagnosis as DiagnosisView } from "../wire";
import { Copy } from "./copy";

const SHOWN = 0.005; // seconds

/** Where the time of a load went, what was really read, and what would make it faster. */
export function Diagnosis({ told }: { told: DiagnosisView | null }) {
  if (told === null) {
    return null;
  }
  const parts = told.parts.filter(([, , seconds]) => seconds >= SHOWN);
  return (
    <section class="nbl-diagnosis">
      {told.measuring ? (
        <p class="nbl-note" role="status">
          {texts.diagnosis.measuring}
        </p>
      ) : (
        <>
          {told.remedies.length === 0 && <p>{told.verdict}</p>}
          <ol class="nbl-remedies">
            {told.remedies.map(([text, lines]) => (
              <li key={text}>
                <p>{text}</p>
                <div class="nbl-lines">
                  <pre>{lines}</pre>
                  <Copy code={lines} label={texts.diagnosis.copy} />
                </div>
              </li>
            ))}
          </ol>
          <details>
            <summary>{texts.diagnosis.facts}</summary>
            <dl class="nbl-facts">
              {parts.map(([key, name, seconds]) => (
                <div key={key}>
                  <dt>{name}</dt>
                  <dd>{duration(seconds)}</dd>
                </div>
              ))}
              {told.facts.map(([name, fact]) => (
                <div key={name}>
                  <dt>{name}</dt>
                  <dd>{fact}</dd>
                </div>
              ))}
            </dl>
          </details>
        </>
      )}
    </section>
  );
}
