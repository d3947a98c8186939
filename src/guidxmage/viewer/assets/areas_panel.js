// The table of areas and what can be done with one.

import { areasCsv, maskPng } from "./areas.js";
import { areaTable, RESERVED } from "./area_table.js";
import { fill, handOver, labelled, make, pressable, sentenceOf } from "./dom.js";
import { outlineOf } from "./outlines.js";
import { widthsOf } from "./state.js";
import { briefly, depthName, exactly } from "./words.js";

/** @type {["pixels" | "sum" | "placed" | "whole" | "positive" | "negative", string, string][]} */
const COLUMNS = [
  ["pixels", "pixels", ""],
  ["sum", "Σ A", "by its pixels"],
  ["placed", "Σ placed bias", ""],
  ["whole", "Σ whole", ""],
  ["positive", "adds", "of Σ A"],
  ["negative", "subtracts", "of Σ A"],
];

/** The areas of one viewer. */
export class AreasPanel {
  /** @param {import("./stage.js").Stage} stage */
  constructor(stage) {
    this.stage = stage;
    this.bench = stage.bench;
    this.turn = 0;
    /** @type {import("./area_table.js").AreaTable | null} */
    this.table = null;
    this.head = make("thead");
    this.body = make("tbody");
    this.note = make("p", { class: "gx-hint" });
    this.edit = make("div", { class: "gx-edit" });
    this.element = make(
      "section",
      { class: "gx-areas", "aria-label": "Areas" },
      make(
        "div",
        { class: "gx-row-title" },
        make("h2", {}, "Areas"),
        pressable("Save table as CSV", () => this.saveTable(), { class: "gx-button gx-small" }),
      ),
      make(
        "div",
        { class: "gx-scroll", tabindex: 0, role: "region", "aria-label": "Table of areas" },
        make("table", { class: "gx-table", "data-gx": "areas" }, this.head, this.body),
      ),
      this.note,
      this.edit,
    );
    const { store } = this.bench;
    store.watch(["areas", "target", "rather", "depth", "sigma"], () => void this.refresh());
    store.watch(["chosen", "areas"], () => this.choose());
  }

  /** Those of which anything is known. */
  get columns() {
    const { scene } = this.bench;
    return COLUMNS.filter(([key]) => (key !== "placed" && key !== "whole") || scene.has(key));
  }

  async refresh() {
    this.turn += 1;
    const turn = this.turn;
    this.element.setAttribute("aria-busy", "true");
    try {
      const table = await areaTable(this.bench, () => turn === this.turn);
      if (!table || turn !== this.turn) return;
      this.table = table;
      this.show(table);
    } catch (error) {
      if (turn === this.turn) this.note.textContent = sentenceOf(error);
    }
    if (turn === this.turn) this.element.removeAttribute("aria-busy");
  }

  /** @param {import("./area_table.js").AreaTable} table */
  show(table) {
    fill(
      this.head,
      make(
        "tr",
        {},
        make("th", { scope: "col" }, "area"),
        this.columns.map(([, words, more]) =>
          make("th", { scope: "col" }, words, more ? make("small", {}, ` ${more}`) : null),
        ),
      ),
    );
    fill(
      this.body,
      table.rows.map((row) => this.row(row)),
    );
    const { state, manifest } = this.bench;
    const deep = this.bench.subject.entry.depths[state.depth];
    const depth = deep && manifest.depths[state.depth];
    const sigma = briefly(widthsOf(state, manifest).whole);
    const through = depth
      ? `Whole: at ${depthName(depth)}, through a Gaussian of σ = ${sigma} pixels. `
      : "";
    const { difference, bound } = table;
    const within = bound !== null && Math.abs(difference) <= bound ? "within" : "beyond";
    const judged = bound === null ? "" : `, ${within} the bound of rounding, ${briefly(bound)}`;
    this.note.textContent =
      `${through}Score ${exactly(table.score)} less the total: ${briefly(difference)}${judged}. ` +
      "Pixels in two areas count for the upper one.";
  }

  /** @param {import("./area_table.js").AreaRow} row */
  row(row) {
    const chosen = row.kind === "area" && row.name === this.bench.state.chosen;
    const name =
      row.kind === "area"
        ? make(
            "button",
            {
              type: "button",
              class: "gx-area-name",
              "data-key": row.name,
              "aria-pressed": String(chosen),
              click: () => this.bench.store.set({ chosen: chosen ? "" : row.name }),
            },
            row.name,
          )
        : row.name;
    return make(
      "tr",
      { "data-area": row.name, class: `gx-${row.kind}${chosen ? " gx-chosen" : ""}` },
      make("th", { scope: "row" }, name),
      this.columns.map(([key]) =>
        make(
          "td",
          { "data-value": key },
          key === "pixels" ? String(row.pixels ?? "–") : exactly(row[key]),
        ),
      ),
    );
  }

  /** Outline the chosen area and offer what can be done with it. */
  choose() {
    const { areas, state, scene } = this.bench;
    const mask = areas.mask(state.chosen);
    this.stage.outline = mask ? outlineOf(mask, scene.height, scene.width) : null;
    this.bench.store.touch("view");
    if (this.table) this.show(this.table);
    if (mask) this.offer(state.chosen, mask);
    else
      fill(
        this.edit,
        make(
          "p",
          { class: "gx-hint" },
          areas.list.length
            ? "Choose an area by its name to outline, rename, save or remove it."
            : "Draw an area on the picture with one of the tools: its sums stand here.",
        ),
      );
  }

  /**
   * @param {string} name
   * @param {Uint8Array} mask
   */
  offer(name, mask) {
    const { areas, store, scene } = this.bench;
    const input = make("input", {
      type: "text",
      maxlength: 60,
      value: name,
      "data-key": "name",
      change: () => {
        const wanted = input.value.trim();
        const own = areas.rename(name, RESERVED.includes(wanted) ? `${wanted} (area)` : wanted);
        store.set({ chosen: own });
        store.touch("areas");
      },
    });
    fill(
      this.edit,
      labelled("Name", input),
      pressable(
        "Save mask as PNG",
        async () => {
          try {
            handOver(await maskPng(mask, scene.height, scene.width), `${fileName(name)}.png`);
          } catch (error) {
            this.bench.tell(sentenceOf(error));
          }
        },
        { class: "gx-button gx-small" },
      ),
      pressable(
        "Remove",
        () => {
          areas.remove(name);
          store.set({ chosen: "" });
          store.touch("areas");
          this.stage.element.focus({ preventScroll: true });
        },
        { class: "gx-button gx-small" },
      ),
    );
  }

  saveTable() {
    if (!this.table) return;
    const { manifest, subject, state } = this.bench;
    const deep = Boolean(subject.entry.depths[state.depth]);
    const { sigma, site } = {
      sigma: widthsOf(state, manifest).whole,
      site: deep ? manifest.depths[state.depth].site : "",
    };
    /** @type {(string | number | null)[][]} */
    const rows = [
      ["photo", "target", "depth", "sigma", "area", ...this.columns.map(([key]) => key)],
    ];
    const about = [manifest.name, subject.entry.name, site, site ? sigma : null];
    for (const row of this.table.rows) {
      rows.push([...about, row.name, ...this.columns.map(([key]) => row[key])]);
    }
    const blob = new Blob([areasCsv(rows)], { type: "text/csv" });
    const stem = manifest.name.replace(/\.[^.]+$/, "");
    handOver(blob, `${fileName(stem ? `${stem}_areas` : "areas")}.csv`);
  }
}

/**
 * A name that every file system takes.
 * @param {string} name
 */
function fileName(name) {
  return (
    name
      .replace(/[^\p{L}\p{N}._-]+/gu, "_")
      .replace(/^[._]+/, "")
      .slice(0, 80) || "area"
  );
}
