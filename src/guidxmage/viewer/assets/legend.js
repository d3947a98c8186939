// What the colours mean, in numbers.

import { make } from "./dom.js";
import { paletteOf } from "./painter.js";
import { briefly } from "./words.js";

/** @typedef {import("./colors.js").Rgb} Rgb */

/** @param {import("./stage.js").Stage} stage */
export function makeLegend(stage) {
  const { bench } = stage;
  const element = make("div", { class: "gx-legend", "data-gx": "legend" });
  bench.store.watch(["scales", "layers", "small", "large", "palette", "blended", "scaleMode"], () =>
    element.replaceChildren(...legendParts(stage)),
  );
  return element;
}

/** @param {import("./stage.js").Stage} stage */
function legendParts(stage) {
  const { bench, scales } = stage;
  const { state } = bench;
  const { layers } = state;
  const palette = paletteOf(state.palette);
  const hatched = state.palette === "blind";
  const placed = layers.placed.on && bench.subject.has("placed", state.depth);
  const whole = layers.whole.on && bench.subject.has("whole", state.depth);
  const parts = [];
  if (layers.distribution.on && known(scales.pixels)) {
    parts.push(
      legendPart(
        "Each pixel's contribution",
        state.blended
          ? ramp(palette.bands, scales.pixels, hatched)
          : bandBar(palette.bands, scales.pixels, state, hatched),
        `s = ${briefly(scales.pixels)}`,
      ),
    );
  }
  if (layers.saliency.on && known(scales.saliency)) {
    parts.push(
      legendPart(
        "Saliency, each pixel",
        ramp(palette.bands, scales.saliency, hatched),
        "the photo, pale, where it is near zero",
      ),
    );
  }
  if ((whole || placed) && known(scales.whole)) {
    const perPercent = bench.scene.pixels / 100;
    const title = [whole ? "Whole score" : "", placed ? "placed bias" : ""]
      .filter(Boolean)
      .join(" and ");
    parts.push(
      legendPart(
        `${title[0].toUpperCase()}${title.slice(1)}, per 1 % of the picture`,
        ramp(palette.whole, scales.whole * perPercent, hatched),
        "white where it is zero",
      ),
    );
  }
  const none = !placed && !whole && !layers.distribution.on && !layers.saliency.on;
  return none ? [make("p", { class: "gx-hint" }, "No map is shown.")] : parts;
}

/**
 * A scale that could not be found, or is not needed, is no number.
 * @param {number} scale
 */
function known(scale) {
  return !Number.isNaN(scale);
}

/**
 * @param {string} title
 * @param {HTMLElement} bar
 * @param {string} note
 */
function legendPart(title, bar, note) {
  return make(
    "figure",
    { class: "gx-legend-part" },
    make("figcaption", {}, title, " ", make("small", {}, note)),
    bar,
  );
}

/** @param {Rgb} color */
function css(color) {
  return `rgb(${color.join(" ")})`;
}

/**
 * Five boxes with the values at which one becomes the other.
 * @param {Rgb[]} bands
 * @param {number} scale
 * @param {{small: number, large: number}} shares
 * @param {boolean} hatched
 */
function bandBar(bands, scale, shares, hatched) {
  const boxes = bands.map((color, band) => {
    const box = make("span", { class: hatched && band < 2 ? "gx-box gx-hatched" : "gx-box" });
    box.style.backgroundColor = css(color);
    return box;
  });
  const edges = [-shares.large, -shares.small, shares.small, shares.large].map((share) =>
    make("span", {}, briefly(share * scale)),
  );
  return make(
    "div",
    { class: "gx-bar" },
    make("div", { class: "gx-boxes", "aria-hidden": "true" }, boxes),
    make("div", { class: "gx-edges" }, edges),
    sides(hatched),
  );
}

/**
 * @param {Rgb[]} colors
 * @param {number} scale
 * @param {boolean} hatched
 */
function ramp(colors, scale, hatched) {
  const bar = make("div", { class: "gx-ramp", "aria-hidden": "true" });
  bar.style.backgroundImage = `linear-gradient(to right, ${colors.map(css).join(", ")})`;
  if (hatched) bar.append(make("span", { class: "gx-half gx-hatched" }));
  const ticks = [-1, -0.5, 0, 0.5, 1].map((share) => make("span", {}, briefly(share * scale)));
  return make(
    "div",
    { class: "gx-bar" },
    bar,
    make("div", { class: "gx-ticks" }, ticks),
    sides(hatched),
  );
}

/** @param {boolean} hatched */
function sides(hatched) {
  return make(
    "div",
    { class: "gx-sides" },
    make("span", {}, hatched ? "◀ subtracts, hatched" : "◀ subtracts"),
    make("span", {}, "adds ▶"),
  );
}
