// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import en from "../../src/nbloader/locale/en.json";
import ko from "../../src/nbloader/locale/ko.json";
import widget from "../src/index";
import type { Model } from "../src/model";
import type { Asked, Now, State, Traits } from "../src/wire";

const STATE: State = {
  number: 7,
  status: "running",
  word: "running",
  cancelling: false,
  name: "us/model",
  commit: "0123456789abcdef",
  stage: "weights",
  began: 0,
  expected: {},
  ahead: [],
  stall: null,
  gone: null,
  stages: [
    { name: "resolve", started: 0, ended: 0.5, detail: "folder" },
    { name: "weights", started: 0.5, ended: null, detail: "" },
    { name: "device", started: null, ended: null, detail: "" },
  ],
  places: [
    { name: "", total: 25e9 },
    { name: "cuda:0", total: 8e10 },
  ],
  predicted_peak: 4e9,
  log: [],
  question: null,
  error: null,
  summary: null,
  code: "",
};

const NOW: Now = {
  elapsed: 12.3,
  fraction: 0.42,
  line: "Placing shard 1 of 2 · 0.20 of 1.00 GB in the model · 1.20 GB/s · about 4.2 s left",
  rate: 1.2e9,
  eta: 4.2,
  peak: 3e9,
  lanes: {},
  samples: [],
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
    ["bfloat16", 8e9],
    ["Load anyway", 2e10],
  ],
  files: [],
  available: 1e10,
};

class FakeModel implements Model {
  sent: unknown[] = [];
  listeners = new Map<string, Set<() => void>>();
  values: Record<string, unknown> = {
    _state: STATE,
    _now: NOW,
    _shards: { names: [], bytes: [], shards: 0 },
    _lanes: [],
    _samples: [[12, 0, 1e9, 2e8, 3e9, [4e9]]],
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
    this.change("_state", { ...(this.values._state as State), ...changes });
  }
  move(changes: Partial<Now>): void {
    this.change("_now", { ...(this.values._now as Now), ...changes });
  }
  change(trait: keyof Traits, value: unknown): void {
    this.values[trait] = value;
    for (const listener of this.listeners.get(`change:${trait}`) ?? []) {
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

/** Waits until what a click has changed is drawn. */
const drawn = () => new Promise((resolve) => setTimeout(resolve));

describe("the panel", () => {
  it("shows what is loaded and how far it is", () => {
    expect(text(".nbl-name")).toBe("us/model");
    expect(text(".nbl-commit")).toBe("0123456");
    expect(text(".nbl-percent")).toBe("42 %");
    expect(text(".nbl-headline span")).toBe(NOW.line);
    expect(text(".nbl-clock")).toBe("12.3 s of about 16.5 s");
    expect(el.querySelector("[role=progressbar]")?.getAttribute("aria-valuenow")).toBe("42");
  });

  it("follows the model", () => {
    model.move({ fraction: 0.5 });
    expect(text(".nbl-percent")).toBe("50 %");
  });

  it("cuts long names in the middle", () => {
    model.set({ name: "organisation/a-model-with-a-long-name-70B-Instruct" });
    expect(text(".nbl-name-start")).toBe("organisation/a-model-with-a-long-name-");
    expect(text(".nbl-name")).toBe("organisation/a-model-with-a-long-name-70B-Instruct");
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
    const figures = () => [...el.querySelectorAll(".nbl-stage .nbl-figure")].map((node) => node.textContent);
    expect(figures()).toEqual(["500 ms", "11.8 s", "–"]);
    expect(text("[aria-current=step] .nbl-label")).toBe("Weights");
    const error = {
      ...ASKED,
      kind: "CheckpointError",
      code: "no-config",
      page: "",
      hint: "mend it",
      choices: [],
    };
    model.set({ status: "failed", word: "failed", error: { ...error, message: "broken" } });
    expect(figures()).toEqual(["500 ms", "✕ 11.8 s", "–"]);
    expect(text("[role=alert]")).toBe("CheckpointError no-configbrokenmend it");
  });

  it("shows the memory of this process with its predicted peak, and of each device", () => {
    expect([...el.querySelectorAll(".nbl-memory")].map((node) => node.textContent)).toEqual([
      "This processpredicted peak 4.00 GB3.00 GBof 25.0 GB",
      "cuda:04.00 GBof 80.0 GB",
    ]);
  });

  it("reads every row out at a moment, by the arrow keys too", async () => {
    const slider = el.querySelector<HTMLElement>("[role=slider]");
    expect(slider?.getAttribute("aria-valuetext")).toBe(
      "at 12.3 s · Weights · This process 3.00 GB · cuda:0 4.00 GB",
    );
    slider?.dispatchEvent(new KeyboardEvent("keydown", { key: "Home", bubbles: true }));
    await drawn();
    expect(text(".nbl-read-out")).toContain("at 0 ms · Find checkpoint");
    slider?.dispatchEvent(new KeyboardEvent("keydown", { key: "PageUp", bubbles: true }));
    await drawn();
    expect(slider?.getAttribute("aria-valuenow")).toBe("5");
    slider?.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    await drawn();
    expect(text(".nbl-read-out").trim()).toBe("");
  });

  it("folds a group of rows", async () => {
    const button = el.querySelector<HTMLButtonElement>(".nbl-head .nbl-fold");
    button?.click();
    await drawn();
    expect(button?.getAttribute("aria-expanded")).toBe("false");
    expect(el.querySelector(".nbl-stage")).toBeNull();
    expect(el.querySelector(".nbl-memory")).not.toBeNull();
  });

  it("has the same as a table, once somebody opens it", async () => {
    expect(el.querySelector("table")).toBeNull();
    const details = el.querySelector<HTMLDetailsElement>(".nbl-table") as HTMLDetailsElement;
    details.open = true;
    details.dispatchEvent(new Event("toggle"));
    await drawn();
    expect([...el.querySelectorAll(".nbl-table tr")].map((row) => row.textContent)).toEqual([
      "Find checkpoint0 ms to 500 ms500 msfolder",
      "Weights500 ms to 12.3 s11.8 s",
      "Finish––",
    ]);
  });

  it("shows many shards as one strip, and all of them on demand", async () => {
    const lane = {
      resident: 0,
      read: 10,
      to_place: 10,
      placed: 10,
      read_started: 1,
      read_ended: 2,
      place_started: 2,
      place_ended: 3,
      downloaded: 10,
      cached: 10,
      download_started: null,
      download_ended: null,
    };
    const names = Array.from({ length: 200 }, (_, index) => `model-${index}.safetensors`);
    model.change("_shards", { names, bytes: names.map(() => 10), shards: 200 });
    model.change(
      "_lanes",
      names.map(() => lane),
    );
    expect(el.querySelectorAll(".nbl-shard").length).toBe(0);
    expect(el.querySelector(".nbl-strip-place")?.getAttribute("d")?.split("M").length).toBe(201);
    expect(text(".nbl-timeline")).toContain("Shards · 200 of 200");
    el.querySelector<HTMLButtonElement>(".nbl-strip button")?.click();
    await drawn();
    expect(el.querySelectorAll(".nbl-shard").length).toBe(200);
  });

  it("folds itself when it is over, and shows how to get the model", async () => {
    localStorage.clear();
    model.set({ status: "ready", word: "ready", summary: SUMMARY, code: "model, tokenizer = w.result()" });
    expect(el.querySelector(".nbl-timeline")).toBeNull();
    expect(text(".nbl-result code")).toBe("model, tokenizer = w.result()");
    el.querySelector<HTMLButtonElement>(".nbl-folded button")?.click();
    await drawn();
    expect(el.querySelector(".nbl-timeline")).not.toBeNull();
    cleanup();
    cleanup = widget.render({ model, el });
    expect(el.querySelector(".nbl-timeline")).not.toBeNull();
    localStorage.clear();
  });

  it("says what was loaded once it is ready", () => {
    model.set({ status: "ready", word: "ready", summary: SUMMARY });
    expect(text(".nbl-clock")).toBe("LlamaModel · 1.00 GB bfloat16 on cpu · 12.3 s");
  });

  it("offers to give back what is loaded, and says what that gave", () => {
    const button = () => el.querySelector<HTMLButtonElement>(".nbl-header button");
    model.set({ status: "ready", summary: { ...SUMMARY, already_loaded: true } });
    expect(text(".nbl-clock")).toBe("LlamaModel · loaded already, 0 bytes read · 1.00 GB bfloat16 on cpu");
    expect(button()?.textContent).toBe("Unload");
    button()?.click();
    expect(model.sent.at(-1)).toEqual({ kind: "unload" });
    const gone = {
      places: [["This process", 3e9, 1e9] as const, ["cuda:0", 8e9, 2e9] as const],
      holders: ["Out[3] refers to it."],
      successor: "us/other",
    };
    model.set({ status: "idle", word: "gone", gone });
    expect(text(".nbl-status")).toBe("○Unloaded");
    expect(text(".nbl-outcome")).toBe(
      "Unloaded. This process: 3.00 GB before, 1.00 GB after; cuda:0: 8.00 GB before, 2.00 GB after. " +
        "The model made room for us/other.⚠ Out[3] refers to it.",
    );
    expect(button()).toBeNull();
  });

  it("tells a download from a load", () => {
    const stages = STATE.stages.filter((stage) => ["resolve", "download"].includes(stage.name));
    model.set({ status: "running", word: "downloading", stages });
    expect(text(".nbl-status")).toBe("●Downloading");
    model.set({ status: "downloaded", word: "downloaded", stages });
    expect(text(".nbl-status")).toBe("✓Downloaded");
    expect(text(".nbl-outcome")).toBe("All files are on this machine. Nothing is loaded.");
    expect(el.querySelector(".nbl-cancel")).toBeNull();
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

  it("asks with bars against the limit, and sends the choice", () => {
    model.set({ question: { ...ASKED, number: 3 } });
    expect(text("[role=alert] p")).toBe(ASKED.message);
    const ways = [...el.querySelectorAll(".nbl-way")];
    expect(ways.map((way) => way.textContent)).toEqual([
      "8.00 GB bfloat16 ✓Load so",
      "20.0 GB as chosen ✕Load anyway",
    ]);
    const widths = [...el.querySelectorAll<HTMLElement>(".nbl-way-needs")].map((bar) => bar.style.width);
    expect(widths).toEqual(["40%", "100%"]);
    expect(el.querySelector<HTMLElement>(".nbl-way-limit")?.style.left).toBe("50%");
    ways[1]?.querySelector("button")?.click();
    expect(model.sent.at(-1)).toEqual({ kind: "answer", number: 7, question: 3, choice: 1 });
  });

  it("asks whether to run code, and sends the answer", () => {
    const asked = {
      ...ASKED,
      kind: "RemoteCodeError",
      available: null,
      choices: [["Run the code", null]] as const,
    };
    model.set({ question: { ...asked, files: ["modeling.py"], number: 3 } });
    const buttons = [...el.querySelectorAll<HTMLButtonElement>(".nbl-question button")];
    expect(buttons.map((button) => button.textContent)).toEqual(["Run the code", "Do not run"]);
    buttons[0]?.click();
    expect(model.sent.at(-1)).toEqual({ kind: "answer", number: 7, question: 3, choice: 0 });
    buttons[1]?.click();
    expect(model.sent.at(-1)).toEqual({ kind: "cancel", number: 7 });
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
    expect(text(".nbl-stage .nbl-label")).toBe("warm-up");
  });

  it("opens the log for a warning", () => {
    expect(el.querySelector<HTMLDetailsElement>(".nbl-log")?.open).toBe(false);
    model.set({ log: [{ t: 1, level: "warning", needs_attention: true, text: "careful" }] });
    expect(el.querySelector<HTMLDetailsElement>(".nbl-log")?.open).toBe(true);
    expect(text(".nbl-log-warning")).toContain("⚠ careful");
  });

  it("keeps the log folded for what libraries say", () => {
    model.set({ log: [{ t: 1, level: "warning", needs_attention: false, text: "no triton" }] });
    expect(el.querySelector<HTMLDetailsElement>(".nbl-log")?.open).toBe(false);
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
    localStorage.setItem("nbloader.unfolded", "true");
    cleanup();
    cleanup = widget.render({ model, el });
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

  it("lists the parts that took time", () => {
    show(told);
    expect([...el.querySelectorAll(".nbl-diagnosis dd")].map((node) => node.textContent)).toEqual([
      "2.5 s",
      "7.5 s",
      "nfs4 (network)",
    ]);
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
    expect(text(".nbl-clock")).toBe("약 16.5초 중 12.3초");
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
    model.move({ elapsed: 13 });
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
