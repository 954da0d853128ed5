// @vitest-environment happy-dom

import { render } from "preact";
import { beforeEach, describe, expect, it, vi } from "vitest";
import en from "../../src/nbloader/locale/en.json";
import type { Edits } from "../src/panels/form";
import { Form } from "../src/panels/form";
import { PlanView, Summary } from "../src/panels/plan";
import { Runs } from "../src/panels/runs";
import { setTexts } from "../src/texts";
import type { Form as FormView, Plan, Run } from "../src/wire";

setTexts(en);

const PLAN: Plan = {
  verdict: "fits",
  rooms: [{ name: "cpu", needed: 3e7, available: 6e7, verdict: "fits" }],
  lines: [
    ["Weights", "safetensors, 2 shards"],
    ["Time", "1.2 s to 3.4 s, based on earlier loads on this machine"],
  ],
  download: 0,
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
  code: 'w = LoaderWidget("demo").show()\nmodel, tokenizer = w.result()',
  plan: PLAN,
  planning: false,
  error: null,
  asked: null,
  resident: "",
  unloads: "",
  field: "",
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

  it("has no field that does not apply", () => {
    drawForm(FORM);
    expect([...root.querySelectorAll(".nbl-field-label")].map((label) => label.textContent)).toEqual([
      "Type",
      "Memory limit",
      "Force",
      "Revision",
    ]);
  });

  it("marks the field that is wrong, and says why there", () => {
    const error = { kind: "OptionError", code: "no-size", page: "", message: "'x' is no size.", hint: "So." };
    drawForm({ ...FORM, error, field: "max_memory" });
    const wrong = [...root.querySelectorAll("[aria-invalid=true]")];
    expect(wrong.map((input) => input.closest("label")?.textContent)).toEqual([
      "Memory limit'x' is no size. So.",
    ]);
  });

  it("helps with the field that is reached", () => {
    drawForm(FORM);
    find("select").dispatchEvent(new Event("focus"));
    vi.advanceTimersByTime(0);
    drawForm(FORM);
    expect(find(".nbl-help").textContent).toMatch(/^The parameters' type in memory/);
  });
});

const ERROR = { kind: "OptionError", code: "no-choice", page: "", message: "no", hint: "so" };

describe("the summary", () => {
  const draw = (form: FormView, isLoading = false) =>
    render(
      <Summary
        form={form}
        isLoading={isLoading}
        onLoad={() => changes.push({})}
        onDownload={() => {
          downloads += 1;
        }}
      />,
      root,
    );

  it("says in one row whether it fits, what it costs and how long it takes", () => {
    draw(FORM);
    expect(find(".nbl-verdict").textContent).toBe("✓ it fits");
    expect(find(".nbl-cost").textContent).toBe("Host memory 30.0 MB of 60.0 MB · 1.2 s–3.4 s");
    find<HTMLButtonElement>(".nbl-primary").click();
    expect(changes.length).toBe(1);
    draw(FORM, true);
    expect(find<HTMLButtonElement>(".nbl-primary").disabled).toBe(true);
  });

  it("tells of the place where memory is scarce", () => {
    const device = { name: "cuda:0", needed: 1e7, available: 8e6, verdict: "wont_fit" };
    draw({ ...FORM, plan: { ...PLAN, verdict: "wont_fit", rooms: [...PLAN.rooms, device], seconds: null } });
    expect(find(".nbl-verdict").textContent).toBe("✕ it will not fit");
    expect(find(".nbl-cost").textContent).toBe("cuda:0 10.0 MB of 8.00 MB");
  });

  it("says why Load and Copy do nothing, and has no verdict", () => {
    draw({ ...FORM, plan: null, error: ERROR });
    expect(find(".nbl-verdict").textContent).toBe("—");
    const buttons = [...root.querySelectorAll<HTMLButtonElement>("button")];
    expect(buttons.map((button) => [button.disabled, button.title])).toEqual([
      [true, "Correct the marked field first."],
      [true, "Correct the marked field first."],
    ]);
  });

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
});

describe("the plan", () => {
  const chosen: number[] = [];
  const draw = (form: FormView) =>
    render(<PlanView form={form} onChoice={(choice) => chosen.push(choice)} />, root);

  it("shows every line that Python sends", () => {
    draw(FORM);
    expect([...root.querySelectorAll(".nbl-facts > div")].map((line) => line.textContent)).toEqual([
      "Weightssafetensors, 2 shards",
      "Time1.2 s to 3.4 s, based on earlier loads on this machine",
    ]);
  });

  it("shows an error", () => {
    draw({ ...FORM, plan: null, error: ERROR });
    expect(find("[role=alert]").textContent).toBe("OptionError no-choicenoso");
  });

  it("asks what a load would ask, before it is clicked", () => {
    const choices = [["bfloat16", 2e7] as const, ["Load anyway", 4e7] as const];
    const asked = {
      kind: "WontFitError",
      code: "wont-fit",
      message: "Too large.",
      choices,
      files: [],
      available: 3e7,
    };
    draw({ ...FORM, asked });
    expect(find("[role=alert]").textContent).toContain("20.0 MB bfloat16 ✓");
    find<HTMLButtonElement>(".nbl-way button").click();
    expect(chosen).toEqual([0]);
  });

  it("warns of what a load unloads", () => {
    draw({ ...FORM, unloads: "Loading unloads us/other." });
    expect(find(".nbl-mixed").textContent).toBe("⚠ Loading unloads us/other.");
  });
});

describe("the runs", () => {
  const RUN: Run = {
    title: "dtype='float32' × 4",
    time: "3.9 s–5.5 s",
    seconds: 4,
    stages: [["weights", 1, 3]],
    figures: "1.00 GB/s · weights were not in memory",
  };

  it("draws all at one scale, and takes over the options of one", () => {
    const runs = [RUN, { ...RUN, title: "defaults", seconds: 1, stages: [["weights", 0, 1]] as const }];
    const used: number[] = [];
    render(
      <Runs
        state={{ runs, note: "compare like with like" }}
        onClear={() => {}}
        onUse={(choice) => used.push(choice)}
      />,
      root,
    );
    const parts = [...root.querySelectorAll<HTMLElement>(".nbl-run .nbl-of-weights")];
    expect(parts.map((part) => [part.style.left, part.style.width])).toEqual([
      ["25%", "50%"],
      ["0%", "25%"],
    ]);
    expect(find(".nbl-run").textContent).toBe(
      "dtype='float32' × 43.9 s–5.5 sUse these options1.00 GB/s · weights were not in memory",
    );
    root.querySelectorAll<HTMLButtonElement>(".nbl-run button")[1]?.click();
    expect(used).toEqual([1]);
    expect(find(".nbl-mixed").textContent).toBe("⚠ compare like with like");
  });
});
