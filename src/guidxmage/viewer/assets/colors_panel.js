// Thresholds of the five bands, the scale, the palette and the theme.

import { choice, dial, labelled, make, panel } from "./dom.js";
import { makeLegend } from "./legend.js";
import { SCALE_WORDS } from "./scales.js";

/**
 * @typedef {import("./state.js").Scales} Scales
 * @typedef {import("./bench.js").Bench} Bench
 */

/** @param {import("./stage.js").Stage} stage */
export function makeColorsPanel(stage) {
  const { bench } = stage;
  const { store } = bench;
  const palette = choice(
    "Palette",
    [
      ["paper", "paper's five colours"],
      ["blind", "colour-blind safe"],
    ],
    (value) => store.set({ palette: value }),
    { "data-gx": "palette" },
  );
  store.watch(["palette"], () => palette.show(bench.state.palette));
  const style = choice(
    "Distribution map",
    [
      ["bands", "five bands"],
      ["blend", "blended"],
    ],
    (value) => store.set({ blended: value === "blend" }),
  );
  store.watch(["blended"], () => style.show(bench.state.blended ? "blend" : "bands"));
  return panel(
    "Colours and scale",
    true,
    { "data-gx": "colors" },
    makeLegend(stage),
    palette.field,
    style.field,
    thresholdDials(bench),
    scaleFields(stage),
  );
}

/**
 * The thresholds are shares of the scale; the small one stays below the large one.
 * @param {Bench} bench
 */
function thresholdDials(bench) {
  const { store } = bench;
  const of = { min: 0, max: 1, step: 0.01 };
  const small = dial({
    ...of,
    value: bench.state.small,
    label: "Calm up to this share of the scale",
    onInput: (value) => store.set({ small: value, large: Math.max(value, bench.state.large) }),
  });
  const large = dial({
    ...of,
    value: bench.state.large,
    label: "Strong from this share of the scale on",
    onInput: (value) => store.set({ large: value, small: Math.min(value, bench.state.small) }),
  });
  store.watch(["small", "large"], () => {
    small.show(bench.state.small);
    large.show(bench.state.large);
  });
  const line = (/** @type {string} */ words, /** @type {ReturnType<typeof dial>} */ one) =>
    make(
      "div",
      { class: "gx-field" },
      make("span", { class: "gx-field-words" }, words),
      one.range,
      one.number,
    );
  return make(
    "div",
    { "data-gx": "bands", role: "group", "aria-label": "Thresholds of the five bands" },
    line("calm up to × s", small),
    line("strong above × s", large),
  );
}

/** @param {import("./stage.js").Stage} stage */
function scaleFields(stage) {
  const { bench } = stage;
  const { store } = bench;
  const kinds = SCALE_WORDS.filter(([mode]) => bench.manifest.depths.length || mode !== "depth");
  const select = make(
    "select",
    {
      "data-gx": "scale",
      change: () => {
        const scaleMode = /** @type {import("./state.js").ScaleMode} */ (select.value);
        // What is typed starts from what was there.
        const { pixels, saliency, whole } = stage.scales;
        const typed =
          scaleMode === "typed"
            ? { pixels: pixels || 0, saliency: saliency || 0, whole: whole || 0 }
            : bench.state.typed;
        store.set({ scaleMode, typed });
      },
    },
    kinds.map(([mode, words]) => make("option", { value: mode }, words)),
  );
  const names = bench.manifest.depths.length
    ? /** @type {(keyof Scales)[]} */ (["pixels", "saliency", "whole"])
    : /** @type {(keyof Scales)[]} */ (["pixels", "saliency"]);
  const typed = make(
    "div",
    { class: "gx-typed" },
    names.map((name) => typedField(bench, name)),
  );
  store.watch(["scaleMode"], () => {
    select.value = bench.state.scaleMode;
    typed.hidden = bench.state.scaleMode !== "typed";
  });
  return make("div", {}, labelled("Scale", select), typed);
}

/**
 * @param {Bench} bench
 * @param {keyof Scales} name
 */
function typedField(bench, name) {
  const { store } = bench;
  // Whole maps are stated per hundredth of the picture, as the legend states them.
  const unit = name === "whole" ? bench.scene.pixels / 100 : 1;
  const words = { pixels: "each pixel ±", saliency: "saliency ±", whole: "whole, per 1 % ±" }[name];
  const input = make("input", {
    type: "number",
    min: 0,
    step: "any",
    class: "gx-number gx-long",
    change: () => {
      const value = Number(input.value) / unit;
      if (Number.isFinite(value) && value >= 0) {
        store.set({ typed: { ...bench.state.typed, [name]: value } });
      }
    },
  });
  store.watch(["typed"], () => {
    input.value = String(Number((bench.state.typed[name] * unit).toPrecision(4)));
  });
  return labelled(words, input);
}
