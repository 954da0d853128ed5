import { duration, fill, size } from "../format";
import { named, texts } from "../texts";
import type { Form as FormView, Plan, Room } from "../wire";
import { Choices } from "./choices";
import { Copy } from "./copy";
import { ErrorText } from "./error";

const MARKS: Record<string, string> = { fits: "✓", tight: "⚠", wont_fit: "✕" };

/** One row: whether it fits, what it costs, and the ways on from here. */
export function Summary(props: {
  form: FormView;
  isLoading: boolean;
  onLoad: () => void;
  onDownload: () => void;
}) {
  const { form, isLoading, onLoad, onDownload } = props;
  const { plan } = form;
  const verdict = form.planning ? texts.form.planning : verdictText(plan);
  const why = form.error === null ? "" : texts.form.cannot;
  return (
    <div class="nbl-summary" aria-busy={form.planning}>
      <span class={`nbl-verdict nbl-verdict-${plan?.verdict ?? "unknown"}`} role="status">
        {verdict}
      </span>
      <span class="nbl-cost">{plan === null ? "" : costText(plan)}</span>
      <span class="nbl-actions">
        <button
          type="button"
          class="nbl-button nbl-primary"
          disabled={isLoading || why !== ""}
          title={why}
          onClick={onLoad}
        >
          {texts.form.load}
        </button>
        {plan !== null && plan.download > 0 && (
          <button type="button" class="nbl-button" disabled={isLoading} onClick={onDownload}>
            {texts.form.download}
          </button>
        )}
        <Copy code={form.code} label={texts.form.copy} why={why} />
      </span>
    </div>
  );
}

const verdictText = (plan: Plan | null): string =>
  plan?.verdict ? `${MARKS[plan.verdict] ?? ""} ${named(texts.verdict, plan.verdict)}` : "—";

/** What is needed where it is scarcest, and how long it takes. */
function costText(plan: Plan): string {
  const worst = plan.rooms.find((room) => room.verdict === plan.verdict) ?? plan.rooms[0];
  return [worst === undefined ? "" : roomText(worst), time(plan.seconds)].filter(Boolean).join(" · ");
}

function roomText({ name, needed, available }: Room): string {
  const label = name === "cpu" ? texts.plan_line.host : name;
  const held =
    available === null ? size(needed) : fill(texts.plan.needs, { size: size(needed), free: size(available) });
  return `${label} ${held}`;
}

function time(seconds: Plan["seconds"]): string {
  if (seconds === null) {
    return "";
  }
  const [low, high] = [duration(seconds[0]), duration(seconds[1])];
  return low === high ? low : fill(texts.runs.from_to, { low, high });
}

/** What the options chosen now will cost, in full, and what a load would ask. */
export function PlanView({ form, onChoice }: { form: FormView; onChoice: (choice: number) => void }) {
  const { plan, error, asked } = form;
  const facts = (
    <dl class="nbl-facts">
      {plan?.lines.map(([label, line]) => (
        <div key={label}>
          <dt>{label}</dt>
          <dd>{line}</dd>
        </div>
      ))}
    </dl>
  );
  return (
    <section class="nbl-plan" aria-label={texts.plan.title}>
      {form.unloads !== "" && <p class="nbl-mixed">⚠ {form.unloads}</p>}
      {error !== null && form.field === "" && (
        <div class="nbl-outcome nbl-is-failed" role="alert">
          <ErrorText error={error} />
        </div>
      )}
      {asked !== null && (
        <div class="nbl-outcome nbl-question" role="alert">
          <p>{asked.message}</p>
          <Choices asked={asked} onAnswer={onChoice} />
        </div>
      )}
      {asked === null ? (
        facts
      ) : (
        <details>
          <summary>{texts.plan.title}</summary>
          {facts}
        </details>
      )}
    </section>
  );
}
