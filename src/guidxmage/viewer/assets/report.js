// A report: the list of photos, and each of them in the viewer with its evidence.

import { fill, make, pressable, sentenceOf } from "./dom.js";
import { DropPanel } from "./dropped_photo.js";
import { Graph } from "./graph.js";
import { withGraph } from "./graph_answers.js";
import { packedPhoto, sourceOf, writtenIn } from "./report_data.js";
import { ReportList, shownLines } from "./report_index.js";
import { mount } from "./viewer.js";

/**
 * @typedef {import("./report_data.js").ReportAbout} ReportAbout
 * @typedef {import("./report_data.js").ReportLine} ReportLine
 * @typedef {import("./report_index.js").ListState} ListState
 * @typedef {import("./types.js").Source} Source
 */

/** Begin; called once, by the page. */
export function startReport() {
  const root = document.getElementById("gx-report");
  if (root === null) return;
  try {
    new Report(root, writtenIn("gx-about"), writtenIn("gx-index"));
  } catch (error) {
    fill(root, make("p", { role: "alert" }, `The report cannot be read: ${sentenceOf(error)}`));
  }
}

/** What of a view goes along to the next photo, by its words in the address. */
const KEPT_WORDS = ["d", "l", "b", "p", "c", "h"];

/** What is shown, in step with the address. */
class Report {
  /**
   * @param {HTMLElement} root
   * @param {ReportAbout} about
   * @param {ReportLine[]} lines
   */
  constructor(root, about, lines) {
    this.root = root;
    this.about = about;
    this.lines = lines;
    /** @type {ListState} */
    this.list = { sort: "", down: false, find: "" };
    /** @type {{destroy: () => void} | null} */
    this.viewer = null;
    /** @type {string | null} */
    this.shown = null;
    this.kept = new URLSearchParams();
    this.turn = 0;
    this.graph = about.network ? new Graph(about.network) : null;
    /** @type {DropPanel | null} */
    this.drop = null;
    /** @type {ReportList | null} */
    this.index = null;
    this.theme = new MutationObserver(() => this.wearTheme());
    window.addEventListener("hashchange", (event) => this.follow(event.oldURL));
    window.addEventListener("beforeprint", () => this.index?.showAll());
    this.follow("");
  }

  /**
   * Show what the address says.
   * @param {string} before The address until now.
   */
  follow(before) {
    if (this.shown !== null) this.keep(new URLSearchParams(before.split("#")[1] ?? ""));
    const wanted = new URLSearchParams(location.hash.slice(1));
    const id = wanted.get("photo");
    const line = this.lines.find((one) => one.id === id);
    if (line !== undefined) {
      if (this.shown !== line.id) this.showPhoto(line, wanted);
      return;
    }
    if (id === null) {
      this.list = {
        sort: wanted.get("sort") ?? "", down: wanted.has("down"), find: wanted.get("find") ?? "",
      };
    }
    this.showList();
  }

  /** @param {URLSearchParams} words */
  keep(words) {
    this.kept = new URLSearchParams([...words].filter(([word]) => KEPT_WORDS.includes(word)));
  }

  /** The address of the list as it is now. */
  listAddress() {
    const words = new URLSearchParams();
    if (this.list.sort !== "") words.set("sort", this.list.sort);
    if (this.list.down) words.set("down", "1");
    if (this.list.find !== "") words.set("find", this.list.find);
    return `#${words}`;
  }

  leave() {
    this.turn += 1;
    this.theme.disconnect();
    this.viewer?.destroy();
    this.viewer = null;
    this.index = null;
    this.drop?.leave();
    this.drop = null;
  }

  /** The page around the viewer is as light or dark as the viewer. */
  wearTheme() {
    const theme = this.root.querySelector(".gx-viewer")?.getAttribute("data-theme");
    document.body.dataset.theme = theme ?? this.kept.get("h") ?? "auto";
  }

  showList() {
    this.leave();
    const before = this.shown;
    this.shown = null;
    document.title = this.about.title;
    /** @param {ListState} state */
    const changed = (state) => {
      this.list = state;
      history.replaceState(null, "", this.listAddress());
    };
    this.index = new ReportList(this.lines, this.list, changed, (line) => `#photo=${line.id}`);
    this.drop = this.graph && new DropPanel(this.graph, (source) => this.showDropped(source));
    fill(this.root, make("main", { class: "gx-report-page" },
      make("h1", {}, this.about.title), this.drop?.element, this.index.element));
    this.wearTheme();
    if (before !== null) this.index.focus(before);
  }

  /**
   * @param {ReportLine} line
   * @param {URLSearchParams} wanted
   */
  async showPhoto(line, wanted) {
    this.leave();
    const turn = this.turn;
    this.shown = line.id;
    document.title = `${line.name} – ${this.about.title}`;
    const place = make("div", { class: "gx-report-viewer" },
      make("p", { role: "status" }, "Opening…"));
    const steps = this.navigation(line);
    fill(this.root, make("main", { class: "gx-report-photo" }, steps, place));
    window.scrollTo(0, 0);
    try {
      const source = sourceOf(await packedPhoto(line, this.about.data));
      if (turn !== this.turn) return; // another photo was opened meanwhile
      if (!KEPT_WORDS.some((word) => wanted.has(word)) && String(this.kept) !== "") {
        history.replaceState(null, "", `#photo=${line.id}&${this.kept}`);
      }
      this.mountIn(place, source, true);
    } catch (error) {
      fill(place, make("p", { role: "alert" }, sentenceOf(error)));
    }
  }

  /**
   * @param {HTMLElement} place
   * @param {Source} source
   * @param {boolean} url Whether what is shown is in the address.
   */
  mountIn(place, source, url) {
    fill(place);
    this.viewer = mount(place, withGraph(source, this.graph), { home: "report", url });
    const viewer = place.firstElementChild;
    if (viewer !== null) this.theme.observe(viewer, { attributes: true });
    this.wearTheme();
    const heading = place.querySelector("h1");
    heading?.setAttribute("tabindex", "-1");
    heading?.focus();
  }

  /**
   * A photo that the graph has explained here; it is in no file, so no address leads back to it.
   * @param {Source} source
   */
  showDropped(source) {
    this.leave();
    document.title = `${source.manifest.name} – ${this.about.title}`;
    const place = make("div", { class: "gx-report-viewer" });
    const back = (/** @type {Event} */ event) => {
      event.preventDefault(); // the address has been the list's all the time
      this.showList();
    };
    const steps = make("nav", { class: "gx-report-nav", "aria-label": "Photos" },
      make("a", { href: this.listAddress(), click: back, "data-gx": "report-back" }, "All photos"),
      make("span", {}, "explained in this browser, kept in no file"),
      pressable("Print", () => window.print()));
    fill(this.root, make("main", { class: "gx-report-photo" }, steps, place));
    window.scrollTo(0, 0);
    this.mountIn(place, source, false);
  }

  /** @param {ReportLine} line */
  navigation(line) {
    const lines = shownLines(this.lines, this.list);
    const order = lines.includes(line) ? lines : this.lines;
    const at = order.indexOf(line);
    /**
     * @param {string} words
     * @param {number} step
     * @param {string} name
     */
    const neighbour = (words, step, name) => {
      const other = order[at + step];
      return other === undefined
        ? make("a", { role: "link", "aria-disabled": "true" }, words)
        : make("a", { href: `#photo=${other.id}`, "data-gx": name, title: other.name }, words);
    };
    return make("nav", { class: "gx-report-nav", "aria-label": "Photos" },
      make("a", { href: this.listAddress(), "data-gx": "report-back" }, "All photos"),
      make("span", { class: "gx-report-steps" },
        neighbour("Previous", -1, "report-previous"),
        make("span", {}, `${at + 1} of ${order.length}`),
        neighbour("Next", 1, "report-next")),
      pressable("Print", () => window.print()));
  }
}
