import { duration } from "../format";
import { texts } from "../texts";
import type { Diagnosis as DiagnosisView } from "../wire";
import { Copy } from "./copy";

/** Where the time of a load went, what was really read, and what would make it faster. */
export function Diagnosis({ told }: { told: DiagnosisView | null }) {
  if (told === null) {
    return null;
  }
  const shown = told.parts.filter(([, , seconds]) => seconds >= 0.005);
  const drawn = total(shown);
  const whole = total(told.parts); // what is too short to be shown took its share, too
  return (
    <section class="nbl-diagnosis">
      <h4>{texts.diagnosis.title}</h4>
      {told.measuring ? (
        <p class="nbl-note" role="status">
          {texts.diagnosis.measuring}
        </p>
      ) : (
        <>
          <div class="nbl-parts" aria-hidden="true">
            {shown.map(([key, name, seconds]) => (
              <span
                key={key}
                class={`nbl-part-${key}`}
                style={{ width: `${(seconds / drawn) * 100}%` }}
                title={`${name}: ${duration(seconds)}`}
              />
            ))}
          </div>
          <ul class="nbl-part-list">
            {shown.map(([key, name, seconds]) => (
              <li key={key}>
                <i class={`nbl-key nbl-part-${key}`} /> {name} <b>{duration(seconds)}</b>{" "}
                <span class="nbl-share">{Math.round((seconds / whole) * 100)} %</span>
              </li>
            ))}
          </ul>
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

function total(parts: DiagnosisView["parts"]): number {
  return parts.reduce((sum, [, , seconds]) => sum + seconds, 0);
}
