// The page of guid-xmage serve: photos in, a list of what was explained, the viewer for each.

import { mount } from "./viewer.js";
import { showCards } from "./cards.js";
import { sourceOf } from "./jobs.js";
import { ask, GoneError, pause, RefusedError } from "./requests.js";
import { WorkList } from "./worklist.js";

const REFRESH = 3000;
const FULL = 503;

/** @param {string} id */
const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** The list and the viewer, of which one is shown. */
class Page {
  constructor() {
    /** @type {import("./cards.js").Entry[]} */
    this.entries = [];
    /** @type {any} */
    this.info = {};
    this.title = document.title;
    /** @type {string | null} */
    this.shown = null;
    /** @type {{destroy: () => void} | null} */
    this.viewer = null;
    this.work = new WorkList(at("work"), (title, result) => this.ended(title, result));
    this.actions = {
      explain: (/** @type {import("./cards.js").Entry} */ entry) => this.explain(entry),
      remove: (/** @type {import("./cards.js").Entry} */ entry) => this.remove(entry),
    };
  }

  async start() {
    this.listen();
    for (;;) {
      if (!document.hidden) await this.refresh();
      await pause(REFRESH);
    }
  }

  listen() {
    const file = /** @type {HTMLInputElement} */ (at("file"));
    file.addEventListener("change", () => {
      this.upload([...(file.files ?? [])]);
      file.value = "";
    });
    document.addEventListener("dragover", (event) => {
      if (event.target instanceof HTMLInputElement) return; // takes files by itself
      event.preventDefault();
      document.body.classList.add("gs-dragging");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) document.body.classList.remove("gs-dragging");
    });
    document.addEventListener("drop", (event) => {
      document.body.classList.remove("gs-dragging");
      if (event.target instanceof HTMLInputElement) return;
      event.preventDefault();
      this.upload([...(event.dataTransfer?.files ?? [])]);
    });
    document.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length) this.upload(files);
    });
    document.addEventListener("click", (event) => this.click(event));
    at("back").addEventListener("click", () => this.go(null));
    at("all").addEventListener("click", () => this.explainAll());
    window.addEventListener("popstate", () => this.route());
  }

  /** Links to a result are followed within the page. @param {MouseEvent} event */
  click(event) {
    const target = /** @type {Element | null} */ (event.target);
    const link = target?.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin || url.pathname !== "/" || url.hash) return;
    event.preventDefault();
    this.go(url.searchParams.get("result"));
  }

  /** Ask what there is; whether the server is there at all shows on the way. */
  async refresh() {
    try {
      if (!this.info.version || !at("gone").hidden) this.describe(await ask("/api/info"));
      this.entries = await ask("/api/results");
    } catch (error) {
      this.complain(error);
      return;
    }
    at("gone").hidden = true;
    this.showList();
    await this.route();
  }

  /** @param {unknown} error */
  complain(error) {
    const gone = error instanceof GoneError;
    at("gone").textContent = gone
      ? "The server is gone. Start it again with “guid-xmage serve”; this page keeps trying."
      : error instanceof Error ? error.message : String(error);
    at("gone").hidden = false;
  }

  /** @param {any} info */
  describe(info) {
    this.info = info;
    at("network").textContent = `${info.network} · version ${info.version}`;
    at("network").title = info.weights;
    at("stored").textContent = info.saves ? "; results are saved" : ", and nothing is stored";
  }

  showList() {
    showCards(at("results"), this.entries, this.actions);
    const fresh = this.entries.filter((entry) => entry.state === "new").length;
    at("empty").hidden = this.entries.length > 0;
    at("bar").hidden = !this.entries.length;
    at("count").textContent = this.entries.length === 1 ? "1 photo" : `${this.entries.length} photos`;
    at("all").hidden = fresh < 2;
    at("all").textContent = `Explain all ${fresh}`;
    for (const entry of this.entries) {
      if (entry.job) this.work.follow(entry.job, entry.name);
    }
  }

  /**
   * @param {string} title
   * @param {string | null} result
   */
  ended(title, result) {
    if (result !== null) at("note").textContent = `${title} is explained.`;
    this.refresh();
  }

  // --- photos --------------------------------------------------------------------------------

  /** @param {File[]} files */
  async upload(files) {
    this.go(null);
    for (const file of files) {
      const name = file.name || "photo";
      if (this.info.limit_bytes && file.size > this.info.limit_bytes) {
        const most = this.info.limit_bytes / 2 ** 20;
        this.work.failed(name, `it has ${(file.size / 2 ** 20).toFixed(1)} MB, and at most ${most} MB are taken`);
        continue;
      }
      const body = new FormData();
      body.append("photo", file, name);
      await this.submit(name, "/api/photos", { method: "POST", body });
    }
  }

  /** @param {import("./cards.js").Entry} entry */
  async explain(entry) {
    await this.submit(entry.name, `/api/photos/${encodeURIComponent(entry.id)}`, { method: "POST" });
    await this.refresh();
  }

  async explainAll() {
    for (const entry of this.entries.filter((one) => one.state === "new")) await this.explain(entry);
  }

  /**
   * Give work to the server; where its queue is full, wait for a place.
   * @param {string} name
   * @param {string} path
   * @param {RequestInit} options
   */
  async submit(name, path, options) {
    at("note").textContent = `${name} is sent …`;
    for (;;) {
      try {
        const { job } = await ask(path, options);
        at("note").textContent = "";
        this.work.follow(job, name);
        return;
      } catch (error) {
        if (error instanceof RefusedError && error.status === FULL) {
          at("note").textContent = `${name} waits: ${error.message}`;
          await pause(2000);
          continue;
        }
        at("note").textContent = "";
        this.work.failed(name, error instanceof Error ? error.message : String(error));
        if (error instanceof GoneError) this.complain(error);
        return;
      }
    }
  }

  /** @param {import("./cards.js").Entry} entry */
  async remove(entry) {
    try {
      await ask(`/api/results/${encodeURIComponent(entry.id)}`, { method: "DELETE" });
      at("note").textContent = `${entry.name} was removed from the list.`;
      at("main").focus();
    } catch (error) {
      this.work.failed(entry.name, error instanceof Error ? error.message : String(error));
    }
    await this.refresh();
  }

  // --- the viewer ----------------------------------------------------------------------------

  /**
   * Open a result, or go back to the list. Which one is in the address's query; what is after the
   * # is the viewer's own.
   * @param {string | null} id
   */
  go(id) {
    const wanted = id === null ? "/" : `/?result=${encodeURIComponent(id)}`;
    if (location.pathname + location.search !== wanted) history.pushState(null, "", wanted);
    this.route();
  }

  async route() {
    const id = new URLSearchParams(location.search).get("result");
    if (id === this.shown) return;
    const before = this.shown;
    this.shown = id;
    this.viewer?.destroy();
    this.viewer = null;
    at("viewer").replaceChildren();
    at("list").hidden = id !== null;
    at("opened").hidden = id === null;
    if (id !== null) await this.open(id);
    else this.returnTo(before);
  }

  /** @param {string} id */
  async open(id) {
    const entry = this.entries.find((one) => one.id === id);
    at("opened-title").textContent = entry?.name ?? "";
    at("opened-title").focus();
    at("opened-note").textContent = "opening …";
    try {
      const manifest = await ask(`/api/results/${encodeURIComponent(id)}/manifest`);
      if (this.shown !== id) return;
      document.title = `${manifest.name || "photo"} · guid-Xmage`;
      at("opened-title").textContent = manifest.name || entry?.name || "photo";
      this.viewer = mount(at("viewer"), sourceOf(id, manifest), { home: "page", url: true });
      at("opened-note").textContent = "";
    } catch (error) {
      at("opened-note").textContent = error instanceof Error ? error.message : String(error);
      if (error instanceof GoneError) {
        this.shown = null; // tried again as soon as the server is back
        this.complain(error);
      }
    }
  }

  /** @param {string | null} before */
  returnTo(before) {
    document.title = this.title;
    if (before === null) return;
    const cards = /** @type {HTMLElement[]} */ ([...at("results").children]);
    const card = cards.find((one) => one.dataset.id === before);
    /** @type {HTMLElement} */ (card?.querySelector("a") ?? at("main")).focus();
  }
}

new Page().start();
