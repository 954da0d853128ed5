import { useEffect, useRef, useState } from "preact/hooks";
import { named, texts } from "../texts";
import type { Field, Form as FormView, Problem } from "../wire";

const TYPING = 150; // milliseconds after the last key until what is written is planned for
const FOLDED = ["files", "loading"];

/** What was changed here and Python has not taken over yet: the text, and Python's own at that time. */
export type Edits = Readonly<Record<string, readonly [text: string, was: string]>>;

export const said = (edits: Edits): Record<string, string> =>
  Object.fromEntries(Object.entries(edits).map(([name, [text]]) => [name, text]));

/** The options, in groups; every change is told at once, and planned for by Python. */
export function Form(props: {
  form: FormView;
  edits: Edits;
  onEdit: (edits: Edits) => void;
  onChange: (edits: Edits) => void;
}) {
  const { form, edits, onEdit, onChange } = props;
  const [help, setHelp] = useState("");
  const timer = useRef(0);
  const focused = useRef("");
  // What does not apply yet is not there.
  const groups = form.groups.map((group) => ({
    ...group,
    fields: group.fields.filter((field) => field.why === ""),
  }));
  const fields = form.groups.flatMap((group) => group.fields);
  const settled = () => {
    const left = Object.entries(edits).filter(
      ([name, [, was]]) =>
        name === focused.current || fields.find((field) => field.name === name)?.value === was,
    );
    if (left.length < Object.keys(edits).length) {
      onEdit(Object.fromEntries(left));
    }
  };
  useEffect(settled, [form]);
  const edit = (field: Field, text: string, delay: number) => {
    const next = { ...edits, [field.name]: [text, edits[field.name]?.[1] ?? field.value] as const };
    onEdit(next);
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => onChange(next), delay);
  };
  const rows = (name: string, group: readonly Field[]) => (
    <fieldset class="nbl-group" key={name}>
      <legend>{named(texts.group, name)}</legend>
      {group.map((field) => (
        <Row
          key={field.name}
          field={field}
          error={form.field === field.name && form.error !== null ? form.error : null}
          value={edits[field.name]?.[0] ?? field.value}
          onEdit={edit}
          onFocus={(name) => {
            focused.current = name;
            setHelp(name);
            if (name === "") {
              settled();
            }
          }}
        />
      ))}
    </fieldset>
  );
  const shown = groups.filter((group) => !FOLDED.includes(group.name));
  const folded = groups.filter((group) => FOLDED.includes(group.name));
  return (
    <section class="nbl-form" aria-label={texts.form.title}>
      {shown.map((group) => rows(group.name, group.fields))}
      <details class="nbl-more">
        <summary>{texts.form.more}</summary>
        {folded.map((group) => rows(group.name, group.fields))}
      </details>
      <p class="nbl-help" aria-live="polite">
        {help ? named(texts.option_help, help) : texts.form.help}
      </p>
    </section>
  );
}

function Row(props: {
  field: Field;
  value: string;
  error: Problem | null;
  onEdit: (field: Field, text: string, delay: number) => void;
  onFocus: (name: string) => void;
}) {
  const { field, value, error, onEdit, onFocus } = props;
  const common = {
    "aria-invalid": error !== null,
    "aria-description": named(texts.option_help, field.name),
    onFocus: () => onFocus(field.name),
    onBlur: () => onFocus(""),
  };
  return (
    // biome-ignore lint/a11y/noLabelWithoutControl: the control is inside, of one kind or another
    <label class="nbl-field" onPointerEnter={() => onFocus(field.name)}>
      <span class="nbl-field-label">{named(texts.option, field.name)}</span>
      {field.kind === "choice" ? (
        <select {...common} value={value} onChange={(event) => onEdit(field, event.currentTarget.value, 0)}>
          {field.choices.map((choice) => (
            <option key={choice.value} value={choice.value} disabled={choice.why !== ""}>
              {choiceText(field.name, choice.value)}
              {choice.why && ` – ${choice.why}`}
            </option>
          ))}
        </select>
      ) : field.kind === "flag" ? (
        <input
          {...common}
          type="checkbox"
          checked={value === "true"}
          onChange={(event) => onEdit(field, event.currentTarget.checked ? "true" : "false", 0)}
        />
      ) : (
        <input
          {...common}
          type="text"
          inputMode={field.kind === "number" ? "numeric" : "text"}
          value={value}
          spellcheck={false}
          autocomplete="off"
          onInput={(event) => onEdit(field, event.currentTarget.value, TYPING)}
        />
      )}
      {error !== null && (
        <span class="nbl-wrong" role="alert">
          {error.message} {error.hint}
        </span>
      )}
    </label>
  );
}

const choiceText = (field: string, value: string): string =>
  value === "code"
    ? texts.form.by_code
    : ((texts.choice as Record<string, string>)[`${field}.${value}`] ?? value);
