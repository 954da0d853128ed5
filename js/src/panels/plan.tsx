import { duration, fill, size } from "../format";
import { named, texts } from "../texts";
import type { Form as FormView, Plan } from "../wire";
import { Copy } from "./copy";
import { ErrorText } from "./error";
import { Gauge } from "./gauge";

const MARKS: Record<string, string> = { fits: "✓", tight: "⚠", wont_fit: "✕" };

/** What the options chosen now will cost, and the ways on from here: load it, only download it, or take it along as code. */
export function PlanView(props: {
  form: FormView;
  isLoading: boolean;
  onLoad: () => void;
  onDownload: () => void;
}) {
  const { form, isLoading, onLoad, onDownload } = props;
  const { plan, error } = form;
  return (
    <section class="nbl-plan" aria-busy={form.planning}>
      <h4>
        {texts.plan.title}
        <span class={`nbl-verdict nbl-verdict-${plan?.verdict ?? "unknown"}`} role="status">
          {form.planning
            ? texts.form.planning
            : plan?.verdict
              ? `${MARKS[plan.verdict] ?? ""} ${named(texts.verdict, plan.verdict)}`
              : ""}
        </span>
      </h4>
      <Room
        label={texts.plan_line.host}
        needed={plan?.peak ?? 0}
        available={plan?.available ?? null}
        verdict={plan?.host_verdict ?? null}
      />
      {plan?.devices?.map(
        (device) =>
          device.available !== null && (
            <Room
              key={device.name}
              label={device.name}
              needed={device.needed}
              available={device.available}
              verdict={device.verdict}
            />
          ),
      )}
      {error !== null ? (
        <div class="nbl-outcome nbl-is-failed" role="alert">
          <ErrorText error={error} />
        </div>
      ) : (
        <dl class="nbl-facts nbl-costs">
          {lines(plan).map(([key, line]) => (
            <div key={key}>
              <dt>{named(texts.plan_line, key)}</dt>
              <dd>{line}</dd>
            </div>
          ))}
        </dl>
      )}
      <div class="nbl-actions">
        <button type="button" class="nbl-button nbl-primary" disabled={isLoading} onClick={onLoad}>
          {texts.form.load}
        </button>
        {plan !== null && plan.download > 0 && (
          <button type="button" class="nbl-button" disabled={isLoading} onClick={onDownload}>
            {texts.form.download}
          </button>
        )}
        <Copy code={form.code} label={texts.form.copy} />
      </div>
      <code class="nbl-code">{form.code}</code>
    </section>
  );
}

/** What the host or a device must hold, as a share of what is free. */
function Room(props: { label: string; needed: number; available: number | null; verdict: string | null }) {
  const { label, needed, available, verdict } = props;
  const free = available ?? 0;
  return (
    <Gauge
      label={label}
      figures={fill(texts.plan.needs, { size: size(needed), free: size(free) })}
      held={needed}
      total={free}
      kind={verdict ?? "unknown"}
    />
  );
}

const parts = (pairs: readonly (readonly [string, number])[], names: Record<string, string>) =>
  pairs.map(([name, bytes]) => `${named(names, name)} ${size(bytes)}`).join(", ");

/** What goes to devices and to disk, in words; empty where nothing does. */
function onDevices(plan: Plan): string {
  if (plan.devices === null) {
    return texts.plan.unknown;
  }
  const told = plan.devices.map(
    (device) => `${device.name} ${size(device.needed)} (${parts(device.parts, texts.memory_part)})`,
  );
  const offloaded = plan.offloaded > 0 ? [fill(texts.plan.offloaded, { size: size(plan.offloaded) })] : [];
  return [...told, ...offloaded].join(", ");
}

function lines(plan: Plan | null): [string, string][] {
  const told = (key: string, line: (plan: Plan) => string): [string, string] => [
    key,
    plan ? line(plan) : "–",
  ];
  return [
    told("weights", (plan) =>
      fill(texts.plan.counts, {
        format: plan.format,
        shards: plan.shards,
        tensors: plan.tensors.toLocaleString("en"),
        parameters: plan.parameters.toLocaleString("en"),
      }),
    ),
    told("files", (plan) => parts(plan.by_dtype, {})),
    told("download", (plan) => (plan.download > 0 ? size(plan.download) : texts.plan.nothing)),
    told("read", (plan) => size(plan.read)),
    told("place", (plan) => `${size(plan.place)} ${plan.placed_as}`),
    told("host", (plan) => `${size(plan.peak)} (${parts(plan.host, texts.memory_part)})`),
    ...(plan !== null && onDevices(plan) !== "" ? [told("devices", onDevices)] : []),
    told("kv_cache", (plan) =>
      plan.kv_cache === null
        ? "–"
        : fill(texts.plan.at_length, {
            size: size(plan.kv_cache),
            tokens: plan.kv_tokens.toLocaleString("en"),
          }),
    ),
    told("time", (plan) => time(plan.seconds)),
  ];
}

function time(seconds: Plan["seconds"]): string {
  if (seconds === null) {
    return texts.plan.no_seconds;
  }
  const [low, high] = [duration(seconds[0]), duration(seconds[1])];
  return low === high ? fill(texts.plan.one_second, { low }) : fill(texts.plan.seconds, { low, high });
}
