// The list of a report's photos: sorted, filtered, and one link for each.

import { fill, make, pressable } from "./dom.js";
import { format6 } from "./numbers.js";

/**
 * @typedef {import("./report_data.js").ReportLine} ReportLine
 * @typedef {{sort: string, down: boolean, find: string}} ListState
 * @typedef {{key: string, words: string, note?: string, show: (line: ReportLine) => string,
 *   by: (line: ReportLine) => string | number | null}} Column
 */

/** So many lines are shown at first, and with each press of the button more. */
const LINES_AT_ONCE = 500;

/** @type {Column[]} */
export const REPORT_COLUMNS = [
  { key: "name", words: "Photo", show: (line) => line.name, by: (line) => line.name },
  { key: "target", words: "Explained", show: targetWords, by: (line) => line.target },
  numberColumn("score", "Score", "", (line) => line.score, format6),
  numberColumn("residual", "Residual", "score − all that is explained", (line) => line.residual, format6),
  numberColumn("object", "Objects", "share of the score", (line) => line.object_share, shareWords),
  numberColumn("background", "Background", "share of the score",
    (line) => line.background_share, shareWords),
];

/**
 * @param {string} key
 * @param {string} words
 * @param {string} note
 * @param {(line: ReportLine) => number | null} by
 * @param {(value: number) => string} write
 * @returns {Column}
 */
function numberColumn(key, words, note, by, write) {
  /** @param {ReportLine} line */
  const show = (line) => {
    const value = by(line);
    return value === null ? "–" : write(value);
  };
  return { key, words, note, show, by };
}

/** @param {ReportLine} line */
function targetWords(line) {
  return line.targets > 1 ? `${line.target} and ${line.targets - 1} more` : line.target;
}

/** @param {number} share */
function shareWords(share) {
  return `${(100 * share).toFixed(1).replace("-", "−")} %`;
}

/**
 * The lines that are shown, in their order. What has no number comes last either way.
 * @param {ReportLine[]} lines
 * @param {ListState} state
 */
export function shownLines(lines, state) {
  const words = state.find.toLocaleLowerCase().split(/\s+/).filter((word) => word !== "");
  const found = lines.filter((line) => {
    const text = `${line.name} ${line.target} ${line.network} ${line.result}`.toLocaleLowerCase();
    return words.every((word) => text.includes(word));
  });
  const column = REPORT_COLUMNS.find((one) => one.key === state.sort);
  if (column === undefined) return found;
  const sign = state.down ? -1 : 1;
  return found.sort((a, b) => {
    const [left, right] = [column.by(a), column.by(b)];
    if (left === null || right === null) return Number(left === null) - Number(right === null);
    return sign * compared(left, right);
  });
}

/**
 * @param {string | number} a
 * @param {string | number} b
 */
function compared(a, b) {
  if (typeof a === "string" || typeof b === "string") {
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }
  return a - b;
}

/** The list as it stands in the page. Narrow, it is no grid; its roles say that it is a table still. */
export class ReportList {
  /**
   * @param {ReportLine[]} lines
   * @param {ListState} state
   * @param {(state: ListState) => void} onChange
   * @param {(line: ReportLine) => string} addressOf
   */
  constructor(lines, state, onChange, addressOf) {
    this.lines = lines;
    this.state = state;
    this.onChange = onChange;
    this.addressOf = addressOf;
    this.most = LINES_AT_ONCE;
    this.heads = REPORT_COLUMNS.map((column) => this.head(column));
    this.body = make("tbody", { role: "rowgroup" });
    this.count = make("p", { class: "gx-report-count", role: "status" });
    this.more = pressable(`Show ${LINES_AT_ONCE} more`, () => this.showMore());
    this.search = make("input", {
      type: "search", id: "gx-report-find", value: state.find, "data-gx": "report-find",
      input: () => this.change({ find: this.search.value }),
    });
    this.element = make("div", { class: "gx-report-list" },
      make("div", { class: "gx-report-tools" },
        make("label", { for: "gx-report-find" }, "Find"), this.search, this.count,
        make("p", { class: "gx-report-hint" }, "Press a heading to sort by it.")),
      make("div", { class: "gx-report-scroll" },
        make("table", { class: "gx-report-table", role: "table", "data-gx": "report-index" },
          make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, this.heads)), this.body)),
      this.more);
    this.show();
  }

  /** @param {Column} column */
  head(column) {
    const number = column.note !== undefined;
    const press = () => {
      const again = this.state.sort === column.key;
      this.change({ sort: column.key, down: again ? !this.state.down : number });
    };
    return make("th", { scope: "col", role: "columnheader", class: number ? "gx-report-number" : null },
      make("button", { type: "button", class: "gx-report-sort", click: press,
        "data-sort": column.key, title: column.note || null }, column.words));
  }

  /** @param {Partial<ListState>} patch */
  change(patch) {
    this.state = { ...this.state, ...patch };
    this.most = LINES_AT_ONCE;
    this.show();
    this.onChange(this.state);
  }

  /** All lines, for paper, which has no button. */
  showAll() {
    this.most = this.lines.length;
    this.show();
  }

  showMore() {
    this.most += LINES_AT_ONCE;
    this.show();
  }

  show() {
    const found = shownLines(this.lines, this.state);
    REPORT_COLUMNS.forEach(({ key }, number) => {
      const order = this.state.down ? "descending" : "ascending";
      if (key === this.state.sort) this.heads[number].setAttribute("aria-sort", order);
      else this.heads[number].removeAttribute("aria-sort");
    });
    fill(this.body, found.slice(0, this.most).map((line) => this.row(line)));
    const all = this.lines.length;
    const photos = all === 1 ? "1 photo" : `${all} photos`;
    fill(this.count, found.length === all ? photos : `${found.length} of ${photos}`);
    this.more.hidden = found.length <= this.most;
  }

  /** @param {ReportLine} line */
  row(line) {
    const link = make("a", { href: this.addressOf(line), "data-photo": line.id },
      line.thumbnail === null
        ? make("span", { class: "gx-report-none", "aria-hidden": "true" })
        : make("img", { src: line.thumbnail, alt: "", decoding: "async" }),
      make("span", {}, line.name, make("small", {}, line.result)));
    const cells = REPORT_COLUMNS.slice(1).map((column) => make("td", {
      class: column.note === undefined ? null : "gx-report-number", "data-value": column.key,
      "data-words": column.words, role: "cell",
    }, column.show(line)));
    return make("tr", { role: "row", "data-line": line.id },
      make("th", { scope: "row", role: "rowheader" }, link), cells);
  }

  /**
   * Put the keyboard where a photo's link is.
   * @param {string} id
   */
  focus(id) {
    const link = this.body.querySelector(`a[data-photo="${CSS.escape(id)}"]`);
    if (link instanceof HTMLElement) link.focus();
  }
}
