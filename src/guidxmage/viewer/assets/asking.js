// Questions that need the network: they go to a server or a notebook's kernel, take their time,
// and may be cancelled.

import { fill, make, panel, pressable, sentenceOf } from "./dom.js";

/**
 * @typedef {import("./bench.js").Bench} Bench
 * @typedef {import("./types.js").Question} Question
 * @typedef {import("./types.js").Answer} Answer
 */

/** The progress, the end and the errors of one kind of question. */
export class Asking {
  /**
   * @param {Bench} bench
   * @param {Question["kind"]} kind
   */
  constructor(bench, kind) {
    this.bench = bench;
    this.kind = kind;
    /** @type {AbortController | null} */
    this.control = null;
    this.bar = make("progress", { max: 1, "aria-label": "Progress" });
    this.words = make("span", { class: "gx-progress-words", role: "status" });
    this.running = make(
      "div",
      { class: "gx-running", hidden: true },
      this.bar,
      this.words,
      pressable("Cancel", () => this.control?.abort(), { class: "gx-button gx-small" }),
    );
    this.error = make("p", { class: "gx-error", role: "alert", hidden: true });
    this.element = make("div", { class: "gx-asking" }, this.running, this.error);
    bench.life.signal.addEventListener("abort", () => this.control?.abort());
  }

  /** Whether there is anybody to ask. */
  get possible() {
    const { ask, asks } = this.bench.source;
    return Boolean(ask) && (asks?.includes(this.kind) ?? true);
  }

  /**
   * Ask; null where it was cancelled or failed, which is then said.
   * @param {Question} question
   * @returns {Promise<Answer | null>}
   */
  async ask(question) {
    const { ask } = this.bench.source;
    if (!ask) return null;
    this.control?.abort();
    const control = new AbortController();
    this.control = control;
    this.fail("");
    this.progress({ text: "asking…", fraction: null });
    this.running.hidden = false;
    try {
      const answer = await ask.call(
        this.bench.source,
        question,
        (progress) => {
          if (this.control === control) this.progress(progress);
        },
        control.signal,
      );
      return control.signal.aborted ? null : answer;
    } catch (error) {
      if (this.control === control)
        this.fail(control.signal.aborted ? "Cancelled." : sentenceOf(error));
      return null;
    } finally {
      if (this.control === control) {
        this.control = null;
        this.running.hidden = true;
      }
    }
  }

  /**
   * Do what may fail; the failure is said where the question is.
   * @param {() => Promise<void>} work
   */
  async attempt(work) {
    try {
      await work();
    } catch (error) {
      this.fail(sentenceOf(error));
    }
  }

  /** @param {import("./types.js").Progress} progress */
  progress({ text, fraction }) {
    this.words.textContent = text;
    if (fraction === null || fraction === undefined) this.bar.removeAttribute("value");
    else this.bar.value = fraction;
  }

  /** @param {string} sentence */
  fail(sentence) {
    this.error.textContent = sentence;
    this.error.hidden = sentence === "";
  }
}

/**
 * A panel to ask from, or what stands in its place where nobody can be asked.
 * @param {Bench} bench
 * @param {{title: string, kind: Question["kind"], open: boolean, needs: string}} of
 * @param {(asking: Asking) => (Node | string)[]} build
 */
export function questionPanel(bench, of, build) {
  const asking = new Asking(bench, of.kind);
  const open = of.open && asking.possible && bench.home !== "report";
  return panel(
    of.title,
    open,
    { "data-question": of.kind },
    asking.possible ? build(asking) : needsNetwork(bench, of.needs, of.kind),
  );
}

/**
 * What stands in the place of a question that cannot be asked here.
 * @param {Bench} bench
 * @param {string} what
 * @param {Question["kind"]} kind
 */
export function needsNetwork(bench, what, kind) {
  const folder = bench.manifest.evidence.verify?.match(
    /^guid-xmage verify\s+("[^"]*"|'[^']*'|\S+)/,
  )?.[1];
  const command = `guid-xmage serve ${folder ?? "RESULT"}`;
  const note = make("p", { class: "gx-hint gx-needs" });
  const { asks, instead } = bench.source;
  if (instead && asks?.includes(kind)) {
    fill(note, `${what} needs the network. `, worded(instead));
    return note;
  }
  fill(
    note,
    `${what} needs the network itself, which this file does not hold. Open the result with `,
    make("code", {}, command),
    ", or in a notebook with ",
    make("code", {}, "explanation.widget()"),
    ".",
  );
  return note;
}

/**
 * A sentence in which commands stand between backticks.
 * @param {string} sentence
 */
export function worded(sentence) {
  return sentence.split("`").map((part, at) => (at % 2 ? make("code", {}, part) : part));
}

/**
 * A choice of areas that follows the areas there are.
 * @param {Bench} bench
 * @param {string} everything words for no area at all; "" where one must be chosen
 */
export function areaSelect(bench, everything) {
  const select = make("select");
  bench.store.watch(["areas", "chosen"], () => {
    const before = select.value;
    const names = bench.areas.list.map(({ name }) => name);
    fill(
      select,
      everything ? make("option", { value: "" }, everything) : null,
      names.map((name) => make("option", { value: name }, name)),
      !everything && !names.length ? make("option", { value: "" }, "draw an area first") : null,
    );
    select.value = names.includes(bench.state.chosen)
      ? bench.state.chosen
      : names.includes(before)
        ? before
        : everything
          ? ""
          : (names[0] ?? "");
  });
  return select;
}

/**
 * Which target a question is about: questions are about one class.
 * @param {Bench} bench
 */
export function askedTarget(bench) {
  const { plus } = bench.subject;
  return { number: plus.number, name: plus.entry.name };
}
