// The numbers of the pixel under the cursor, to be seen and to be heard.

import { make } from "./dom.js";
import { bandOf } from "./numbers.js";
import { BAND_WORDS, briefly, exactly } from "./words.js";

/** So long the cursor must rest before it is spoken of, in milliseconds. */
const SPEAK_AFTER = 350;
const COLOURS = ["red", "green", "blue"];

/**
 * @typedef {object} AtPixel What is known when the cursor moves.
 * @property {Awaited<ReturnType<import("./subject.js").Subject["numbers"]>>} numbers
 * @property {import("./types.js").Numbers | null} placed
 * @property {import("./types.js").Numbers | null} whole
 * @property {Uint8Array | null} picture
 */

/** The panel of the cursor. */
export class Readout {
  /** @param {import("./stage.js").Stage} stage */
  constructor(stage) {
    this.stage = stage;
    this.bench = stage.bench;
    /** @type {Map<string, HTMLElement>} */
    this.cells = new Map();
    this.swatch = make("span", { class: "gx-swatch", "aria-hidden": "true" });
    this.element = make(
      "section",
      { class: "gx-readout", "data-gx": "cursor", "aria-label": "Pixel under the cursor" },
      this.placeLine(),
      this.channelTable(),
      this.sumList(),
    );
    /** @type {AtPixel | null} */
    this.known = null;
    this.turn = 0;
    this.speaking = 0;
    const { store } = this.bench;
    store.watch(["target", "rather", "depth"], () => void this.load());
    store.watch(["row", "column"], () => this.show(true));
    store.watch(["scales", "small", "large"], () => this.show(false));
    store.watch(["palette"], () => {
      this.element.dataset.palette = store.state.palette;
    });
  }

  /** @param {string} name */
  cell(name) {
    const cell = make("span", { class: "gx-value", "data-value": name }, "–");
    this.cells.set(name, cell);
    return cell;
  }

  placeLine() {
    const line = make(
      "div",
      { class: "gx-place" },
      make("span", {}, "row ", this.cell("row")),
      make("span", {}, "column ", this.cell("column")),
    );
    if (this.bench.scene.arrays.has("picture")) {
      line.append(
        make(
          "span",
          { class: "gx-rgb" },
          this.swatch,
          "RGB ",
          ...COLOURS.flatMap((color, at) => [at ? " " : "", this.cell(color)]),
        ),
      );
    }
    line.append(make("strong", { class: "gx-band" }, this.cell("band")));
    return line;
  }

  channelTable() {
    const rows = this.bench.scene.channels.map((name, channel) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, name),
        make("td", {}, this.cell(`weights.${channel}`)),
        make("td", {}, this.cell(`contributions.${channel}`)),
      ),
    );
    return make(
      "table",
      { class: "gx-channels" },
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          make("th", { scope: "col" }, "channel"),
          make(
            "th",
            { scope: "col", title: "the derivative in the region of the input" },
            "weight Δ",
          ),
          make(
            "th",
            { scope: "col", title: "Δ times how far the value is from the reference" },
            "contribution A",
          ),
        ),
      ),
      make("tbody", {}, rows),
    );
  }

  sumList() {
    const row = (/** @type {string} */ words, /** @type {string} */ name) =>
      make("div", {}, make("dt", {}, words), make("dd", {}, this.cell(name)));
    const list = make("dl", { class: "gx-sums" }, row("Σ A of the pixel", "sum"));
    const { scene } = this.bench;
    if (scene.has("placed")) list.append(row("placed bias", "placed"));
    if (scene.has("whole")) list.append(row("whole, at this depth", "whole"));
    return list;
  }

  async load() {
    this.turn += 1;
    const turn = this.turn;
    const { scene, state, subject } = this.bench;
    const map = (/** @type {"whole" | "placed"} */ kind) =>
      state.depth < 0 ? null : subject.map(kind, state.depth);
    try {
      const [numbers, placed, whole, picture] = await Promise.all([
        subject.numbers(),
        map("placed"),
        map("whole"),
        scene.picture(),
      ]);
      if (turn !== this.turn) return;
      this.known = { numbers, placed, whole, picture };
      this.show(false);
    } catch {
      this.known = null; // the stage tells why
    }
  }

  /**
   * @param {string} name
   * @param {string | number} words
   */
  put(name, words) {
    const cell = this.cells.get(name);
    if (cell) cell.textContent = String(words);
  }

  /** @param {boolean} speaks */
  show(speaks) {
    const { known, bench } = this;
    const { row, column, small, large } = bench.state;
    const { width, pixels, channels } = bench.scene;
    const at = row * width + column;
    this.put("row", row);
    this.put("column", column);
    if (!known) return;
    const { picture } = known;
    if (picture) {
      const color = [...picture.subarray(3 * at, 3 * at + 3)];
      color.forEach((value, number) => this.put(COLOURS[number], value));
      this.swatch.style.backgroundColor = `rgb(${color.join()})`;
    }
    channels.forEach((_, channel) => {
      this.put(`weights.${channel}`, exactly(known.numbers.weight(channel * pixels + at)));
      this.put(
        `contributions.${channel}`,
        exactly(known.numbers.contribution(channel * pixels + at)),
      );
    });
    const sum = known.numbers.pixels[at];
    this.put("sum", exactly(sum));
    this.put("placed", exactly(known.placed?.[at]));
    this.put("whole", exactly(known.whole?.[at]));
    const scale = this.stage.scales.pixels;
    if (Number.isNaN(scale)) {
      this.put("band", "–"); // not found yet
      return;
    }
    const band = bandOf(sum, scale, small, large);
    this.put("band", BAND_WORDS[band]);
    this.element.dataset.band = String(band);
    if (speaks) this.speakSoon(row, column, sum, band);
  }

  /**
   * @param {number} row
   * @param {number} column
   * @param {number} sum
   * @param {number} band
   */
  speakSoon(row, column, sum, band) {
    clearTimeout(this.speaking);
    this.speaking = setTimeout(
      () => this.bench.speak(`Row ${row}, column ${column}: ${BAND_WORDS[band]}, ${briefly(sum)}.`),
      SPEAK_AFTER,
    );
  }
}
