// The list of work that goes on: progress, cancelling, and the sentence where it failed.

import { element } from "./cards.js";
import { cancel, follow, progressOf } from "./jobs.js";

/** The rows of work, each followed until it ends. */
export class WorkList {
  /**
   * @param {HTMLElement} list
   * @param {(title: string, result: string | null) => void} onDone
   */
  constructor(list, onDone) {
    this.list = list;
    this.onDone = onDone;
    /** @type {Set<string>} */
    this.followed = new Set();
  }

  /**
   * A row of its own that says why something was not even begun.
   * @param {string} name
   * @param {string} sentence
   */
  failed(name, sentence) {
    const row = element("li");
    this.list.append(row);
    this.fail(row, name, sentence);
  }

  /**
   * @param {string} job
   * @param {string} title
   */
  async follow(job, title) {
    if (this.followed.has(job)) return;
    this.followed.add(job);
    const bar = /** @type {HTMLProgressElement} */ (
      element("progress", { max: 1, "aria-label": title }));
    const step = element("span", { class: "gs-step" }, "waiting");
    const stop = element("button", {
      type: "button", class: "gs-button gs-small", "aria-label": `Cancel ${title}`,
      click: () => { stop.setAttribute("disabled", ""); cancel(job); },
    }, "Cancel");
    const row = element("li", { "data-job": job },
      element("span", { class: "gs-title" }, title), bar, step, stop);
    this.list.append(row);
    try {
      const told = await follow(job, (now) => {
        const { text, fraction } = progressOf(now);
        step.textContent = text;
        if (fraction === null) bar.removeAttribute("value");
        else bar.value = fraction;
      });
      if (told.state === "failed") this.fail(row, title, told.error ?? "It failed.");
      else row.remove();
      this.onDone(title, told.state === "done" ? told.result ?? null : null);
    } catch (error) {
      this.fail(row, title, error instanceof Error ? error.message : String(error));
      this.onDone(title, null);
    }
  }

  /**
   * @param {HTMLElement} row
   * @param {string} title
   * @param {string} sentence
   */
  fail(row, title, sentence) {
    row.className = "gs-failed";
    const words = sentence.includes(title) ? sentence : `${title}: ${sentence}`;
    row.replaceChildren(
      element("span", { class: "gs-title", role: "alert" }, words),
      element("button", {
        type: "button", class: "gs-button gs-small", "aria-label": `Dismiss: ${title}`,
        click: () => row.remove(),
      }, "Dismiss"));
  }
}
