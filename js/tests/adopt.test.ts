// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { adopts, type Followed, follow } from "../src/adopt";

const KEPT = '<div class="nbl-saved nbl-7"><p>kept</p></div>';

let output: HTMLElement;
let mounted: HTMLElement[];
let stopped: number;
let followed: Followed;
const stop = () => followed.stop();

const settle = () => new Promise((resolve) => setTimeout(resolve));

/** Shows what is kept in one more output, as JupyterLab does. */
function add(): HTMLElement {
  const made = document.createElement("div");
  made.className = "jp-RenderedHTML jp-RenderedHTMLCommon";
  made.innerHTML = KEPT;
  document.body.append(made);
  return made;
}

const live = (): HTMLElement[] => mounted.filter((el) => el.isConnected);
const kept = (): HTMLElement => output.querySelector("p") as HTMLElement;

beforeEach(() => {
  document.body.innerHTML = "";
  mounted = [];
  stopped = 0;
  output = add();
  followed = follow("nbl-7", (el) => {
    el.innerHTML = "<button>live</button>";
    mounted.push(el);
    return () => {
      stopped += 1;
    };
  });
});

afterEach(() => stop());

it("lays the live panel over what is kept, in the panel's own style", () => {
  expect(live()).toHaveLength(1);
  expect(kept().hasAttribute("hidden")).toBe(true);
  expect(output.classList.contains("jp-RenderedHTMLCommon")).toBe(false);
});

it("follows outputs as they come and go", async () => {
  const other = add();
  await settle();
  expect(live()).toHaveLength(2);
  other.remove();
  await settle();
  expect(live()).toHaveLength(1);
  await vi.waitFor(() => expect(stopped).toBe(1), 2000);
  expect(other.querySelector("p")?.hasAttribute("hidden")).toBe(false);
});

it("hands the panel on where what is kept is replaced, with the keyboard", async () => {
  mounted[0]?.querySelector("button")?.focus();
  output.innerHTML = KEPT;
  await settle();
  expect([mounted.length, stopped]).toEqual([1, 0]);
  expect(output.contains(mounted[0] as HTMLElement)).toBe(true);
  expect(kept().hasAttribute("hidden")).toBe(true);
  expect(document.activeElement?.textContent).toBe("live");
});

it("hands a view's panel on to what is kept", async () => {
  output.remove();
  await settle();
  stop();
  mounted = [];
  const view = document.createElement("div");
  followed = follow("nbl-7", (el) => {
    el.innerHTML = "<input>";
    mounted.push(el);
    return () => {};
  });
  const leave = followed.show(view);
  document.body.append(view);
  const typed = mounted[0]?.querySelector("input") as HTMLInputElement;
  typed.value = "8 GB";
  typed.focus();
  await settle();
  view.remove();
  output = add();
  await settle();
  leave();
  expect(mounted).toHaveLength(1);
  expect(output.querySelector("input")?.value).toBe("8 GB");
  expect(document.activeElement).toBe(typed);
});

it("hands the panel on scrolled as it was", async () => {
  const list = mounted[0]?.appendChild(document.createElement("ol")) as HTMLElement;
  list.scrollTop = 40;
  list.dispatchEvent(new Event("scroll"));
  list.scrollTop = 0;
  output.innerHTML = KEPT;
  await settle();
  expect(list.scrollTop).toBe(40);
});

it("shows what is kept once the widget is gone", () => {
  stop();
  expect([live().length, stopped]).toEqual([0, 1]);
  expect(kept().hasAttribute("hidden")).toBe(false);
  expect(output.classList.contains("jp-RenderedHTMLCommon")).toBe(true);
});

it("is for pages of JupyterLab's kind", () => {
  expect(adopts()).toBe(false);
  output.classList.add("jp-OutputArea");
  expect(adopts()).toBe(true);
});
