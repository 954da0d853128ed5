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

export interface Followed {
  /** Has a live panel in a view of the widget; returns how to leave it. */
  show(view: HTMLElement): () => void;
  stop(): void;
}

// Its rules for text and tables are not for a panel.
const PROSE = "jp-RenderedHTMLCommon";
// For which a panel without a place waits for another: a page takes a view away before it shows what is kept.
const WAIT_MS = 1000;

/**
 * Has a live panel in every element of a class, as they come and go, and in the views that are shown.
 *
 * A place that is replaced, as a view by what is kept and that at each change of it, hands its panel on: what was
 * unfolded, typed, scrolled or had the keyboard is so still.
 */
export function follow(anchor: string, mount: (el: HTMLElement) => () => void): Followed {
  const hosts = document.getElementsByClassName(anchor);
  const live = new Map<Element, Live>();
  const placed = new WeakSet<Element>();
  const waiting = new Map<Live, ReturnType<typeof setTimeout>>();
  const leave = (host: Element): void => {
    const left = live.get(host);
    if (left !== undefined) {
      live.delete(host);
      left.el.remove();
      uncover(host, true);
      waiting.set(
        left,
        setTimeout(() => end(left), WAIT_MS),
      );
    }
  };
  const end = (left: Live): void => {
    clearTimeout(waiting.get(left));
    waiting.delete(left);
    left.stop();
  };
  const enter = (host: Element): void => {
    const [left] = waiting.keys();
    const made = left ?? begin(mount);
    clearTimeout(waiting.get(made));
    waiting.delete(made);
    live.set(host, made);
    lay(made, host);
  };
  const look = (): void => {
    for (const host of live.keys()) {
      // A view may not be in the page yet. That it has gone is said later, after what is kept has come.
      if (host.isConnected) {
        placed.add(host);
      } else if (placed.has(host)) {
        leave(host);
      }
    }
    for (const host of hosts) {
      if (!live.has(host)) {
        uncover(host, false);
        placed.add(host);
        enter(host);
      }
    }
  };
  const observer = new MutationObserver(look);
  observer.observe(document.body, { childList: true, subtree: true });
  look();
  return {
    show(view) {
      enter(view);
      return () => leave(view);
    },
    stop() {
      observer.disconnect();
      for (const host of [...live.keys()]) {
        leave(host);
      }
      for (const left of [...waiting.keys()]) {
        end(left);
      }
    },
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
      // Unless it was the page that took the panel away.
      if (el.isConnected && !el.contains(document.activeElement)) {
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

/** Shows what is kept, where the widget is gone, or covers it. */
function uncover(host: Element, isKept: boolean): void {
  for (const child of host.children) {
    child.toggleAttribute("hidden", !isKept);
  }
  host.closest(".jp-RenderedHTML")?.classList.toggle(PROSE, isKept);
}
