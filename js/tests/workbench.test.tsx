// @vitest-environment happy-dom

import { render } from "preact";
import { beforeEach, describe, expect, it, vi } from "vitest";
import en from "../../src/nbloader/locale/en.json";
import type { Edits } from "../src/panels/form";
import { Form } from "../src/panels/form";
import { PlanView } from "../src/panels/plan";
import { Runs } from "../src/panels/runs";
import { setTexts } from "../src/texts";
import type { Form as FormView, Plan, Run } from "../src/wire";

setTexts(en);

const PLAN: Plan = {
  format: "safetensors",
  shards: 2,
  tensors: 1234,
  parameters: 5_000_000,
  by_dtype: [["bfloat16", 1e7]],
  download: 0,
  read: 1e7,
  place: 2e7,
  placed_as: "float32",
  host: [
    ["weights", 2e7],
    ["files", 1e7],
  ],
  peak: 3e7,
  available: 6e7,
  host_verdict: "fits",
  devices: [],
  offloaded: 0,
  verdict: "fits",
  kv_cache: null,
  kv_tokens: 4096,
  seconds: [1.2, 3.4],
};

const field = (name: string, changes: object = {}) => ({
  name,
  kind: "text" as const,
  value: "",
  choices: [],
  why: "",
  ...changes,
});

const FORM: FormView = {
  groups: [
    {
      name: "weights",
      fields: [
        field("dtype", {
          kind: "choice",
          value: "auto",
          choices: [
            { value: "auto", why: "" },
            { value: "float32", why: "" },
          ],
        }),
        field("max_memory"),
        field("offload_folder", { why: "only where the model is spread over devices" }),
        field("force", { kind: "flag", value: "false" }),
      ],
    },
    { name: "files", fields: [field("revision")] },
  ],
  code: 'LoaderWidget("demo").show()',
  plan: PLAN,
  planning: false,
  error: null,
};

let root: HTMLElement;
let edits: Edits;
let changes: Edits[];
let downloads = 0;

function drawForm(form: FormView): void {
  render(
    <Form
      form={form}
      edits={edits}
      onEdit={(next) => {
        edits = next;
      }}
      onChange={(next) => changes.push(next)}
    />,
    root,
  );
}

const find = <T extends Element>(selector: string): T => root.querySelector<T>(selector) as T;

function write(input: HTMLInputElement, text: string): void {
  input.value = text;
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

beforeEach(() => {
  vi.useFakeTimers();
  root = document.createElement("div");
  document.body.replaceChildren(root);
  edits = {};
  changes = [];
});

describe("the form", () => {
  it("tells a choice at once, and a text when nobody types any more", () => {
    drawForm(FORM);
    const select = find<HTMLSelectElement>("select");
    select.value = "float32";
    select.dispatchEvent(new Event("change", { bubbles: true }));
    vi.advanceTimersByTime(0);
    expect(changes).toEqual([{ dtype: ["float32", "auto"] }]);
    drawForm(FORM);
    const limit = find<HTMLInputElement>("input[type=text]");
    write(limit, "8");
    drawForm(FORM);
    write(limit, "8GB");
    vi.advanceTimersByTime(149);
    expect(changes.length).toBe(1);
    vi.advanceTimersByTime(1);
    expect(changes[1]).toEqual({ dtype: ["float32", "auto"], max_memory: ["8GB", ""] });
  });

  it("keeps what is being written, and follows Python once it is not", async () => {
    drawForm(FORM);
    edits = { max_memory: ["8 GB", ""] };
    drawForm(FORM);
    expect(find<HTMLInputElement>("input[type=text]").value).toBe("8 GB");
    const group = { ...FORM.groups[0], fields: [field("max_memory", { value: "8GB" })] };
    drawForm({ ...FORM, groups: [group as (typeof FORM.groups)[0]] });
    await vi.runAllTimersAsync();
    expect(edits).toEqual({});
    drawForm({ ...FORM, groups: [group as (typeof FORM.groups)[0]] });
    expect(find<HTMLInputElement>("input[type=text]").value).toBe("8GB");
  });

  it("says why something cannot be chosen", () => {
    drawForm(FORM);
    const folder = root.querySelectorAll<HTMLInputElement>("input[type=text]")[1];
    expect(folder?.disabled).toBe(true);
    expect(folder?.placeholder).toBe("only where the model is spread over devices");
  });

  it("helps with the field that is reached", () => {
    drawForm(FORM);
    find("select").dispatchEvent(new Event("focus"));
    vi.advanceTimersByTime(0);
    drawForm(FORM);
    expect(find(".nbl-help").textContent).toMatch(/^The parameters' type in memory/);
  });
});

describe("the plan", () => {
  const draw = (form: FormView, isLoading = false) =>
    render(
      <PlanView
        form={form}
        isLoading={isLoading}
        onLoad={() => changes.push({})}
        onDownload={() => {
          downloads += 1;
        }}
      />,
      root,
    );

  it("offers a download without a load where files are missing", () => {
    const button = () =>
      [...root.querySelectorAll("button")].find((each) => each.textContent === "Download only");
    draw({ ...FORM, plan: { ...PLAN, download: 0 } });
    expect(button()).toBeUndefined();
    draw({ ...FORM, plan: { ...PLAN, download: 1e6 } });
    downloads = 0;
    button()?.click();
    expect(downloads).toBe(1);
    draw({ ...FORM, plan: { ...PLAN, download: 1e6 } }, true);
    expect(button()?.disabled).toBe(true);
  });

  it("shows the costs, by part", () => {
    draw(FORM);
    const told = find(".nbl-costs").textContent;
    expect(told).toContain("safetensors, 2 shards, 1,234 tensors, 5,000,000 parameters");
    expect(told).toContain("30.0 MB (weights 20.0 MB, mapped files while placing 10.0 MB)");
    expect(told).toContain("1.2 s to 3.4 s");
    expect(find(".nbl-verdict").textContent).toBe("✓ it fits");
    expect(find("[role=meter]").getAttribute("aria-valuetext")).toBe("30.0 MB of 60.0 MB free");
  });

  it("shows devices beside the host, as far as they are known", () => {
    const device = {
      name: "cuda:0",
      parts: [["weights", 1e7] as const],
      needed: 1e7,
      available: 8e6,
      verdict: "wont_fit",
    };
    const unknown = { ...device, name: "cuda:1", available: null, verdict: null };
    draw({ ...FORM, plan: { ...PLAN, devices: [device, unknown], offloaded: 5e6 } });
    const meters = [...root.querySelectorAll("[role=meter]")];
    expect(meters.map((meter) => meter.getAttribute("aria-label"))).toEqual(["Host memory", "cuda:0"]);
    expect(meters[1]?.getAttribute("aria-valuetext")).toBe("10.0 MB of 8.00 MB free");
    expect(find(".nbl-gauge-wont_fit")).not.toBeNull();
    expect(find(".nbl-costs").textContent).toContain(
      "cuda:0 10.0 MB (weights 10.0 MB), cuda:1 10.0 MB (weights 10.0 MB), 5.00 MB left on disk",
    );
  });

  it("says what it does not know", () => {
    draw({ ...FORM, plan: { ...PLAN, seconds: null, devices: null, verdict: null } });
    expect(find(".nbl-costs").textContent).toContain("unknown: no similar load");
    expect(find(".nbl-costs").textContent).toContain("not known before the load");
    expect(find(".nbl-verdict").textContent).toBe("");
  });

  it("shows an error in the costs' place, and keeps the way on", () => {
    draw({
      ...FORM,
      plan: null,
      error: { kind: "OptionError", code: "no-choice", page: "", message: "no", hint: "so" },
    });
    expect(find("[role=alert]").textContent).toBe("OptionError no-choicenoso");
    find<HTMLButtonElement>(".nbl-primary").click();
    expect(changes.length).toBe(1);
    draw(FORM, true);
    expect(find<HTMLButtonElement>(".nbl-primary").disabled).toBe(true);
  });
});

describe("the runs", () => {
  const RUN: Run = {
    time: "2026-01-01T00:00:00+00:00",
    options: { dtype: "float32" },
    seconds: 4,
    stages: [["weights", 1, 3]],
    rate: 1e9,
    observed_peak: 3e9,
    predicted_peak: 3.1e9,
    cache: "cold",
    verdict: "fits",
  };

  it("draws all at one scale", () => {
    const runs = [RUN, { ...RUN, time: "2", seconds: 1, options: {}, stages: [["weights", 0, 1]] as const }];
    render(<Runs state={{ runs, note: "compare like with like" }} onClear={() => {}} />, root);
    const parts = [...root.querySelectorAll<HTMLElement>(".nbl-run-part")];
    expect(parts.map((part) => [part.style.left, part.style.width])).toEqual([
      ["25%", "50%"],
      ["0%", "25%"],
    ]);
    expect(find(".nbl-run").textContent).toContain('dtype="float32"4.0 s');
    expect(find(".nbl-run-figures").textContent).toBe(
      "1.00 GB/s · Peak memory 3.00 GB (predicted 3.10 GB) · Weights were not in memory · it fits",
    );
    expect(root.querySelectorAll(".nbl-run-options")[1]?.textContent).toBe("defaults");
    expect(find(".nbl-mixed").textContent).toBe("⚠ compare like with like");
  });
});
