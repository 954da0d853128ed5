import type { ComponentChildren } from "preact";
import { fill, size } from "../format";
import { texts } from "../texts";
import type { Asked } from "../wire";

/** The ways to go on after a question or an error: bars against a limit where memory is the question, else buttons. */
export function Choices(props: {
  asked: Asked;
  onAnswer: (choice: number) => void;
  /** Another button beside them. */
  children?: ComponentChildren;
}) {
  const { asked, onAnswer, children } = props;
  const { choices, available } = asked;
  if (choices.length === 0) {
    return null;
  }
  const most = Math.max(available ?? 0, ...choices.map(([, bytes]) => bytes ?? 0), 1);
  const share = (bytes: number): string => `${(bytes / most) * 100}%`;
  return (
    <>
      {available === null ? (
        <div class="nbl-choices">
          {choices.map(([label], choice) => (
            <button type="button" class="nbl-button" key={label} onClick={() => onAnswer(choice)}>
              {label}
            </button>
          ))}
          {children}
        </div>
      ) : (
        <div class="nbl-ways">
          {choices.map(([label, bytes], choice) => {
            const isForced = choice === choices.length - 1;
            return (
              <div class={`nbl-way ${isForced ? "nbl-is-forced" : ""}`} key={label}>
                <span class="nbl-way-bar" aria-hidden="true">
                  <i class="nbl-way-needs" style={{ width: share(bytes ?? 0) }} />
                  <i class="nbl-way-limit" style={{ left: share(available) }} />
                </span>
                <span>
                  {size(bytes ?? 0)} {isForced ? texts.panel.as_chosen : label} {isForced ? "✕" : "✓"}
                </span>
                <button type="button" class="nbl-button" onClick={() => onAnswer(choice)}>
                  {isForced ? label : texts.form.load_so}
                </button>
              </div>
            );
          })}
          <p class="nbl-note">{fill(texts.panel.limit, { size: size(available) })}</p>
        </div>
      )}
    </>
  );
}

/** The files of code that a question is about. */
export function Files({ files }: { files: readonly string[] }) {
  return (
    <>
      <p>{texts.panel.code_files}</p>
      <ul class="nbl-files">
        {files.map((file) => (
          <li key={file}>
            {file.startsWith("http") ? (
              <a href={file} target="_blank" rel="noopener noreferrer">
                {file}
              </a>
            ) : (
              <code>{file}</code>
            )}
          </li>
        ))}
      </ul>
    </>
  );
}
