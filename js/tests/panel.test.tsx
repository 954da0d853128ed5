// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import en from "../../src/nbloader/locale/en.json";
import ko from "../../src/nbloader/locale/ko.json";
import widget from "../src/index";
import type { Model } from "../src/model";
import type { Asked, State, Traits } from "../src/wire";

const STATE: State = {
  number: 7,
  status: "running",
  cancelling: false,
  name: "us/model",
  doing: "Loading checkpoint shards…",
  commit: "0123456789abcdef",
  stage: "weights",
  fraction: 0.42,
  elapsed: 12.3,
  rate: 1.2e9,
  eta: 4.2,
  stalled_for: 0,
  all: [1e9, 2e9],
  download: [0, 0],
  read: [8e8, 1e9],
  place: [2e8, 1e9],
  readers: 0,
  ahead: [],
  stall: null,
  gone: null,
  resident: 0,
  stages: [
    { name: "resolve", started: 0, ended: 0.5, detail: "folder" },
    { name: "weights", started: 0.5, ended: null, detail: "" },
    { name: "device", started: null, ended: null, detail: "" },
  ],
  memory: {
    total: 25e9,
    available: 20e9,
    process: 3e9,
    accelerators: [{ name: "cuda:0", total: 8e10, used: 4e9 }],
  },
  predicted_peak: 4e9,
  observed_peak: 3e9,
  log: [],
  question: null,
  error: null,
  summary: null,
};

const SUMMARY = {
  already_loaded: false,
  model_class: "LlamaModel",
  parameters: 5e8,
  bytes: 1e9,
  dtype: "bfloat16",
  device: "cpu",
};

const ASKED: Asked = {
  kind: "WontFitError",
  code: "wont-fit",
  message: "us/model takes 20 GB of memory, and 10 GB is free.",
  choices: [
    ["dtype='bfloat16'", 8e9],
    ["Load anyway", null],
  ],
  files: [],
};

class FakeModel implements Model {
  sent: unknown[] = [];
  listeners = new Map<string, Set<() => void>>();
  values: Record<string, unknown> = {
    _state: STATE,
    _shards: { names: [], bytes: [], shards: 0 },
    _lanes: {},
    _form: null,
    _runs: { runs: [], note: "" },
    _diagnosis: null,
    _texts: en,
  };

  get<Name extends keyof Traits>(name: Name): Traits[Name] {
    return this.values[name] as Traits[Name];
  }
  on(event: string, listener: () => void): void {
    this.listeners.set(event, (this.listeners.get(event) ?? new Set()).add(listener));
  }
  off(event: string, listener: () => void): void {
    this.listeners.get(event)?.delete(listener);
  }
  send(content: unknown): void {
    this.sent.push(content);
  }
  set(changes: Partial<State>): void {
    this.values._state = { ...(this.values._state as State), ...changes };
    for (const listener of this.listeners.get("change:_state") ?? []) {
      listener();
    }
  }
  get listening(): number {
    return [...this.listeners.values()].reduce((sum, set) => sum + set.size, 0);
  }
}

let model: FakeModel;
let el: HTMLElement;
let cleanup: () => void;

beforeEach(() => {
  model = new FakeModel();
  el = document.createElement("div");
  cleanup = widget.render({ model, el });
});

const text = (selector: string): string => el.querySelector(selector)?.textContent ?? "";

describe("the panel", () => {
  it("shows what is loaded and how far it is", () => {
    expect(text(".nbl-name")).toBe("us/model");
    expect(text(".nbl-commit")).toBe("0123456");
    expect(text(".nbl-percent")).toBe("42 %");
    expect(text(".nbl-movement")).toBe("1.20 GB/s · about 4.2 s left");
    expect(text(".nbl-clock")).toBe("0:12.3");
    expect(el.querySelector("[role=progressbar]")?.getAttribute("aria-valuenow")).toBe("42");
    expect([...el.querySelectorAll(".nbl-phase-figures")].map((node) => node.textContent)).toEqual([
      "nothing to download",
      "800 MB / 1.00 GB",
      "200 MB / 1.00 GB",
    ]);
  });

  it("follows the model", () => {
    model.set({ fraction: 0.5 });
    expect(text(".nbl-percent")).toBe("50 %");
  });

  it("says so when nothing moves", () => {
    model.set({ stalled_for: 12.7, rate: null, eta: null });
    expect(text(".nbl-movement")).toBe("no bytes for 12 s");
  });

  it("says how many read at once, as long as any do", () => {
    model.set({ readers: 16, rate: null, eta: null });
    expect(text(".nbl-movement")).toBe("16 readers");
    model.set({ read: [1e9, 1e9] });
    expect(text(".nbl-movement")).toBe("Loading checkpoint shards…");
  });

  it("sends a click, and shows that it waits", () => {
    const button = el.querySelector("button");
    button?.click();
    expect(model.sent).toEqual([
      { kind: "drawn", language: navigator.language },
      { kind: "cancel", number: 7 },
    ]);
    model.set({ cancelling: true });
    expect(button?.disabled).toBe(true);
    expect(button?.textContent).toBe("Cancelling…");
  });

  it("tells stages apart without colour", () => {
    const marks = [...el.querySelectorAll(".nbl-stage .nbl-mark")].map((node) => node.textContent);
    expect(marks).toEqual(["✓", "●", "○"]);
    model.set({
      status: "failed",
      error: {
        ...ASKED,
        kind: "CheckpointError",
        code: "no-config",
        page: "",
        message: "broken",
        hint: "mend it",
        choices: [],
      },
    });
    expect([...el.querySelectorAll(".nbl-stage .nbl-mark")].map((node) => node.textContent)).toEqual([
      "✓",
      "✕",
      "○",
    ]);
    expect(text("[role=alert]")).toBe("CheckpointError no-configbrokenmend it");
  });

  it("shows each accelerator and the mark of the predicted peak", () => {
    const meters = [...el.querySelectorAll("[role=meter]")].map((node) => node.getAttribute("aria-label"));
    expect(meters).toEqual(["This process", "Free host memory", "cuda:0 in use"]);
    expect(el.querySelector<HTMLElement>(".nbl-gauge-mark")?.style.left).toBe("16%");
    expect(text(".nbl-memory .nbl-note")).toBe("predicted peak 4.00 GB, so far 3.00 GB");
  });

  it("says what was loaded once it is ready", () => {
    model.set({ status: "ready", fraction: 1, elapsed: 3.21, summary: SUMMARY });
    expect(text(".nbl-outcome")).toBe("LlamaModel 1.00 GB in 3.2 s, bfloat16 on cpu");
  });

  it("offers to give back what is loaded, and says what that gave", () => {
    const button = () => el.querySelector<HTMLButtonElement>(".nbl-header button");
    model.set({ status: "ready", summary: { ...SUMMARY, already_loaded: true } });
    expect(text(".nbl-outcome")).toBe("LlamaModel loaded already, 0 bytes read; 1.00 GB, bfloat16 on cpu");
    expect(button()?.textContent).toBe("Unload");
    button()?.click();
    expect(model.sent.at(-1)).toEqual({ kind: "unload" });
    const gone = {
      places: [["This process", 3e9, 1e9] as const, ["cuda:0", 8e9, 2e9] as const],
      holders: ["Out[3] refers to it."],
      successor: "us/other",
    };
    model.set({ status: "idle", gone });
    expect(text(".nbl-status")).toBe("○Unloaded");
    expect(text(".nbl-outcome")).toBe(
      "Unloaded. This process: 3.00 GB before, 1.00 GB after; cuda:0: 8.00 GB before, 2.00 GB after. " +
        "The model made room for us/other.⚠ Out[3] refers to it.",
    );
    expect(button()?.disabled).toBe(true);
  });

  it("tells a download from a load", () => {
    const stages = STATE.stages.filter((stage) => ["resolve", "download"].includes(stage.name));
    model.set({ status: "running", stages });
    expect(text(".nbl-status")).toBe("●Downloading");
    model.set({ status: "downloaded", stages, fraction: 1 });
    expect(text(".nbl-status")).toBe("✓Downloaded");
    expect(text(".nbl-outcome")).toBe("All files are on this machine. Nothing is loaded.");
    expect(el.querySelector<HTMLButtonElement>(".nbl-cancel")?.disabled).toBe(true);
  });

  it("shows what it waits for, and cancels that by its number", () => {
    model.set({
      status: "queued",
      ahead: [
        [7, "us/first"],
        [9, "us/second"],
      ],
    });
    expect([...el.querySelectorAll(".nbl-line-name")].map((node) => node.textContent)).toEqual([
      "us/first",
      "us/second",
    ]);
    el.querySelector<HTMLButtonElement>("[aria-label='Cancel us/second']")?.click();
    expect(model.sent.at(-1)).toEqual({ kind: "cancel", number: 9 });
  });

  it("says what a load without progress waits for, where it is and, after a while, how to end it", () => {
    const stall = {
      since: 2.3,
      text: "The storage gives 0 B/s of model-1.safetensors.",
      stack: "nbloader-load:\n  <b>in</b> read",
      is_working: false,
      bytes: 0,
      offers_cancel: false,
    };
    model.set({ stall });
    expect(text(".nbl-stall strong")).toBe("No progress for 10 s");
    expect(text(".nbl-stall p")).toContain(stall.text);
    expect(text(".nbl-stall p")).toContain("No activity detected");
    expect(text(".nbl-stall pre")).toBe(stall.stack);
    expect(text(".nbl-movement")).toBe("");
    expect(el.querySelector(".nbl-stall button")).toBeNull();
    model.set({ stall: { ...stall, is_working: true, bytes: 9, offers_cancel: true } });
    expect(text(".nbl-stall strong")).toBe("Hardly any progress for 10 s");
    expect(text(".nbl-stall p")).toContain("slow, but not stuck");
    el.querySelector<HTMLButtonElement>(".nbl-stall button")?.click();
    expect(model.sent.at(-1)).toEqual({ kind: "cancel", number: 7 });
    model.set({ cancelling: true });
    expect(el.querySelector(".nbl-stall")).toBeNull();
  });

  it.each([{}, { ...STATE, stages: 5 }, { ...STATE, name: { __html: "<b>x</b>" } }, null])(
    "says so where a saved state cannot be drawn, and draws the next one (%#)",
    (forged) => {
      model.values._state = forged;
      model.set({});
      if (el.querySelector(".nbl-name") === null) {
        expect(el.textContent).toContain("cannot show the data");
      }
      expect(el.querySelector("b")).toBeNull();
      model.values._state = STATE;
      model.set({});
      expect(text(".nbl-name")).toBe("us/model");
      expect(el.textContent).not.toContain("cannot show the data");
    },
  );

  it("shows names as text", () => {
    model.set({ name: "<img src=x onerror=alert(1)>" });
    expect(text(".nbl-name")).toBe("<img src=x onerror=alert(1)>");
    expect(el.querySelector("img")).toBeNull();
  });

  it("asks, and sends the choice", () => {
    model.set({ question: { ...ASKED, number: 3 } });
    expect(text("[role=alert] p")).toBe(ASKED.message);
    const buttons = [...el.querySelectorAll<HTMLButtonElement>(".nbl-choices button")];
    expect(buttons.map((button) => button.textContent)).toEqual([
      "dtype='bfloat16' takes 8.00 GB",
      "Load anyway",
    ]);
    buttons[1]?.click();
    expect(model.sent.at(-1)).toEqual({ kind: "answer", number: 7, question: 3, choice: 1 });
  });

  it("links the files that a consent is for, and no other address", () => {
    const files = ["https://hub.example/us/model/blob/0/modeling.py", "javascript:alert(1)//.py"];
    model.set({ question: { ...ASKED, number: 1, files } });
    expect([...el.querySelectorAll("a")].map((link) => link.getAttribute("href"))).toEqual([files[0]]);
    expect(text(".nbl-files code")).toBe(files[1]);
  });

  it("takes names as text", () => {
    model.set({ name: "<img src=x onerror=alert(1)>" });
    expect(el.querySelector("img")).toBeNull();
    expect(text(".nbl-name")).toBe("<img src=x onerror=alert(1)>");
  });

  it("says a text it does not know by its key", () => {
    model.set({ stages: [{ name: "warm-up", started: 0, ended: 1, detail: "" }] });
    expect(text(".nbl-stage-name")).toBe("warm-up");
  });

  it("opens the log for a warning", () => {
    expect(el.querySelector("details")?.open).toBe(false);
    model.set({ log: [{ t: 1, level: "warning", needs_attention: true, text: "careful" }] });
    expect(el.querySelector("details")?.open).toBe(true);
    expect(text(".nbl-log-warning")).toContain("⚠ careful");
  });

  it("keeps the log folded for what libraries say", () => {
    model.set({ log: [{ t: 1, level: "warning", needs_attention: false, text: "no triton" }] });
    expect(el.querySelector("details")?.open).toBe(false);
    expect(text(".nbl-log-warning")).toContain("⚠ no triton");
  });

  it("lets go of everything when it is closed", () => {
    cleanup();
    expect(model.listening).toBe(0);
    expect(el.querySelector(".nbl-header")).toBeNull();
  });
});

describe("the diagnosis", () => {
  const told = {
    measuring: false,
    verdict: "Waiting took 9 s.",
    parts: [
      ["imports", "Imports", 2.5],
      ["storage", "Waiting for storage", 7.5],
      ["other", "Other", 0.001],
    ],
    facts: [["storage", "nfs4 (network)"]],
    remedies: [["Move it: saves 8 s.", "import shutil"]],
  };
  const show = (diagnosis: unknown) => {
    model.values._diagnosis = diagnosis;
    model.set({ status: "ready" });
  };

  it("is not there before there is one", () => {
    expect(el.querySelector(".nbl-diagnosis")).toBeNull();
  });

  it("says that it is being made", () => {
    show({ ...told, measuring: true });
    expect(text(".nbl-diagnosis [role=status]")).toBe("Measuring…");
  });

  it("shows where the time went, as shares and in figures", () => {
    show(told);
    const widths = [...el.querySelectorAll<HTMLElement>(".nbl-parts span")].map((part) => part.style.width);
    expect(widths).toEqual(["25%", "75%"]);
    expect([...el.querySelectorAll(".nbl-part-list li")].map((item) => item.textContent?.trim())).toEqual([
      "Imports 2.5 s 25 %",
      "Waiting for storage 7.5 s 75 %",
    ]);
    expect(text(".nbl-diagnosis dd")).toBe("nfs4 (network)");
  });

  it("tells shares of the whole load, of which not all is shown", () => {
    show({
      ...told,
      parts: [
        ["other", "Other", 0.144],
        ["tokenizer", "Tokenizer", 0.004],
        ["queue", "Queue", 0.004],
      ],
    });
    expect(text(".nbl-part-list li")?.trim()).toBe("Other 144 ms 95 %");
  });

  it("says what would help, with the lines to run", () => {
    show(told);
    expect(text(".nbl-remedies p")).toBe("Move it: saves 8 s.");
    expect(text(".nbl-remedies pre")).toBe("import shutil");
    expect(text(".nbl-remedies button")).toBe("Copy");
    expect(text(".nbl-diagnosis")).not.toContain("Waiting took 9 s.");
  });

  it("says that nothing would help", () => {
    show({ ...told, remedies: [] });
    expect(text(".nbl-diagnosis > p")).toBe("Waiting took 9 s.");
  });
});

describe("another language", () => {
  it("is that of the texts that are sent", () => {
    model.values._texts = ko;
    model.set({});
    expect(text(".nbl-cancel")).toBe("취소");
    expect(text(".nbl-movement")).toBe("1.20 GB/s · 약 4.2초 남음");
  });

  it("says of an error that it is one", () => {
    model.values._texts = ko;
    model.set({
      status: "failed",
      error: { ...ASKED, kind: "SourceError", page: "https://docs/errors.html#x", hint: "h", choices: [] },
    });
    expect(text(".nbl-outcome strong")).toBe("❌ 오류: SourceError");
    expect(el.querySelector<HTMLAnchorElement>(".nbl-outcome a")?.href).toBe("https://docs/errors.html#x");
  });
});

it("says what is done while no bytes move", () => {
  model.set({ rate: null, eta: null });
  expect(text(".nbl-movement")).toBe("Loading checkpoint shards…");
});

describe("a kernel that is silent", () => {
  beforeEach(() => {
    cleanup();
    vi.useFakeTimers();
    cleanup = widget.render({ model, el });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("is said to be, from some seconds on, until it is heard again", () => {
    vi.advanceTimersByTime(10_000);
    expect(el.textContent).not.toContain("sent nothing");
    vi.advanceTimersByTime(10_000);
    expect(text(".nbl-outcome")).toContain("The kernel has sent nothing for 20 s.");
    model.set({ elapsed: 13 });
    expect(el.textContent).not.toContain("sent nothing");
  });

  it("has nothing more to say once the load has ended", () => {
    model.set({ status: "ready", summary: SUMMARY });
    vi.advanceTimersByTime(60_000);
    expect(el.textContent).not.toContain("sent nothing");
  });

  it("is listened to no longer than the panel is there", () => {
    cleanup();
    expect(vi.getTimerCount()).toBe(0);
  });
});
