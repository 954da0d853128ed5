import { fill, size } from "../format";
import { texts } from "../texts";
import type { Asked } from "../wire";

/** The ways to go on after a question or an error, each a button. */
export function Choices({ asked, onAnswer }: { asked: Asked; onAnswer: (choice: number) => void }) {
  if (asked.choices.length === 0) {
    return null;
  }
  return (
    <>
      {asked.files.length > 0 && (
        <>
          <p>{texts.panel.code_files}</p>
          <ul class="nbl-files">
            {asked.files.map((file) => (
              <li key={file}>
                {/^https?:\/\//.test(file) ? (
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
      )}
      <div class="nbl-choices">
        {asked.choices.map(([label, bytes], choice) => (
          <button type="button" class="nbl-button" key={label} onClick={() => onAnswer(choice)}>
            {label}
            {bytes !== null && (
              <span class="nbl-takes"> {fill(texts.panel.takes, { size: size(bytes) })}</span>
            )}
          </button>
        ))}
      </div>
    </>
  );
}
