import { useState } from "preact/hooks";
import { texts } from "../texts";

const COPIED = 1500; // milliseconds for which it is said

/** A button that puts lines of code on the clipboard. */
export function Copy({ code, label, why = "" }: { code: string; label: string; why?: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await write(code);
    setCopied(true);
    setTimeout(() => setCopied(false), COPIED);
  };
  return (
    <button type="button" class="nbl-button" disabled={why !== ""} title={why} onClick={copy}>
      {copied ? texts.form.copied : label}
    </button>
  );
}

/** Puts a text on the clipboard; pages without a secure origin have only the old way. */
async function write(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
