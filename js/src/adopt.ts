// Lays the live panel over what a saved notebook keeps of it, wherever a page of JupyterLab's kind has that.

/** Whether this page shows outputs as this module looks for them; a view may be drawn before it is in the page. */
export const adopts = (): boolean => document.querySelector(".jp-OutputArea") !== null;

interface Live {
  el: HTMLElement;
  /** What in it has the keyboard, or had it when the page took it away. */
  focused: HTMLElement | null;
  /** How far what scrolls in it is scrolled: what leaves a page forgets it. */
  scrolled: Map<Element, number>;
  stop: () => void;
}

// Its rules for text and tables are not for a panel.
const PROSE = "jp-RenderedHTMLCommon";

/**
 * Has a live panel in every element of a class, as they come and go; returns how to stop.
 *
 * An element that is replaced, as at each change of what is kept, hands its panel on: what was unfolded or had the
 * keyboard is so still.
 */
export function follow(anchor: string, mount: (el: HTMLElement) => () => void): () => void {
  const hosts = document.getElementsByClassName(anchor);
  const live = new Map<Element, Live>();
  const look = (): void => {
    const orphans = [...live].filter(([host]) => !host.isConnected);
    for (const host of hosts) {
      if (!live.has(host)) {
        const [old, made] = orphans.pop() ?? [null, begin(mount)];
        if (old !== null) {
          live.delete(old);
        }
        lay(made, host);
        live.set(host, made);
      }
    }
    for (const [host, left] of orphans) {
      live.delete(host);
      lift(left, host);
    }
  };
  const observer = new MutationObserver(look);
  observer.observe(document.body, { childList: true, subtree: true });
  look();
  return () => {
    observer.disconnect();
    for (const [host, left] of live) {
      lift(left, host);
    }
    live.clear();
  };
}

function begin(mount: (el: HTMLElement) => () => void): Live {
  const el = document.createElement("div");
  const made: Live = { el, focused: null, scrolled: new Map(), stop: mount(el) };
  el.addEventListener("focusin", ({ target }) => {
    made.focused = target instanceof HTMLElement ? target : null;
  });
  el.addEventListener("focusout", () => {
    setTimeout(() => {
      // Unless it was the page that took it away, and has given it back by now.
      if (!el.contains(document.activeElement)) {
        made.focused = null;
      }
    });
  });
  const keep = ({ target }: Event): void => {
    if (target instanceof Element) {
      made.scrolled.set(target, target.scrollTop);
    }
  };
  el.addEventListener("scroll", keep, { capture: true, passive: true });
  return made;
}

function lay({ el, focused, scrolled }: Live, host: Element): void {
  show(host, false);
  host.append(el);
  for (const [part, top] of scrolled) {
    if (el.contains(part)) {
      part.scrollTop = top;
    } else {
      scrolled.delete(part);
    }
  }
  if (focused !== null && document.activeElement === document.body) {
    focused.focus({ preventScroll: true });
  }
}

/** The widget is gone, with its kernel maybe: what is kept is all there is. */
function lift({ el, stop }: Live, host: Element): void {
  stop();
  el.remove();
  show(host, true);
}

function show(host: Element, isKept: boolean): void {
  for (const child of host.children) {
    child.toggleAttribute("hidden", !isKept);
  }
  host.closest(".jp-RenderedHTML")?.classList.toggle(PROSE, isKept);
}
