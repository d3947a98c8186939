// The layers: which are shown, how strongly, and through which Gaussian.

import { dial, make, panel, pressable } from "./dom.js";
import { amplification } from "./perturbation.js";
import { LAYER_NAMES, widthsOf } from "./state.js";
import { briefly } from "./words.js";

/** @type {Record<string, [string, string]>} */
const LAYER_WORDS = {
  photo: ["Photo", ""],
  distribution: ["Distribution map", "pixel by pixel"],
  saliency: ["Saliency", "contributions, smoothed"],
  placed: ["Placed bias", "at this depth, smoothed"],
  whole: ["Whole score", "at this depth, smoothed"],
  result: ["Result", "of the last question"],
  perturbation: ["Perturbation", ""],
};

/**
 * Whether the scene has what a layer shows.
 * @param {import("./bench.js").Bench} bench
 * @param {string} name
 */
function hasLayer(bench, name) {
  const { answers } = bench.painter;
  switch (name) {
    case "photo":
      return bench.scene.arrays.has("picture");
    case "placed":
    case "whole":
      return bench.scene.has(name);
    case "result":
      return answers.picture !== null;
    case "perturbation":
      return answers.delta !== null;
    default:
      return true;
  }
}

/** @param {import("./bench.js").Bench} bench */
export function makeLayersPanel(bench) {
  // The uppermost first, as layers lie.
  const rows = [...LAYER_NAMES].reverse().map((name) => layerRow(bench, name));
  return panel("Layers", true, { "data-gx": "layers" }, rows, widthDials(bench));
}

/**
 * @param {import("./bench.js").Bench} bench
 * @param {string} name
 */
function layerRow(bench, name) {
  const { store } = bench;
  const [title, words] = LAYER_WORDS[name];
  const note = make("small", {}, words);
  const shown = make("input", {
    type: "checkbox",
    change: () => store.setLayer(name, { on: shown.checked }),
  });
  const opacity = make("input", {
    type: "range",
    min: 0,
    max: 1,
    step: 0.01,
    "aria-label": `Opacity of ${title}`,
    input: () =>
      store.setLayer(name, { opacity: Number(opacity.value), on: Number(opacity.value) > 0 }),
  });
  const percents = make("output", { class: "gx-percent" });
  const row = make(
    "div",
    { class: "gx-layer", "data-layer": name },
    make("label", {}, shown, make("span", {}, title, note)),
    opacity,
    percents,
  );
  store.watch(["layers"], () => {
    const layer = bench.state.layers[name];
    shown.checked = layer.on;
    opacity.value = String(layer.opacity);
    percents.textContent = `${Math.round(100 * layer.opacity)} %`;
  });
  if (name === "placed" || name === "whole") {
    store.watch(["target", "rather", "depth"], () => {
      const there = bench.subject.has(name, bench.state.depth);
      note.textContent = there ? words : "none of this class at this depth";
    });
  }
  store.watch(["answers"], () => {
    row.hidden = !hasLayer(bench, name);
    const { delta } = bench.painter.answers;
    if (name === "perturbation" && delta) {
      note.textContent = `amplified ${briefly(amplification(delta))} times around grey`;
    }
  });
  return row;
}

/**
 * The widths of the Gaussians, each with a way back to what the depth or picture gives.
 * @param {import("./bench.js").Bench} bench
 */
function widthDials(bench) {
  const { manifest } = bench;
  const most = Math.max(8, Math.round(Math.min(...manifest.size) / 3));
  const whole = widthDial(bench, {
    words: bench.scene.has("placed") ? "σ of whole and placed" : "σ of whole",
    most,
    mark: "sigma",
    own: "as the depth",
    key: "sigma",
    now: () => widthsOf(bench.state, manifest).whole,
    watched: ["sigma", "depth"],
  });
  const saliency = widthDial(bench, {
    words: "σ of saliency",
    most,
    mark: "spread",
    own: "2 % of the picture",
    key: "spread",
    now: () => widthsOf(bench.state, manifest).saliency,
    watched: ["spread"],
  });
  return make("div", { class: "gx-widths" }, manifest.depths.length ? whole : null, saliency);
}

/**
 * @param {import("./bench.js").Bench} bench
 * @param {{words: string, most: number, mark: string, own: string, key: "sigma" | "spread",
 *   now: () => number, watched: string[]}} of
 */
function widthDial(bench, of) {
  const { store } = bench;
  const made = dial(
    {
      min: 0,
      max: of.most,
      step: "any",
      value: of.now(),
      label: `${of.words}, in pixels`,
      onInput: (value) => store.set({ [of.key]: value }),
    },
    { "data-gx": of.mark },
  );
  const back = pressable(of.own, () => store.set({ [of.key]: null }), {
    class: "gx-button gx-small",
  });
  store.watch(of.watched, () => {
    made.show(of.now());
    back.setAttribute("aria-pressed", String(bench.state[of.key] === null));
  });
  return make(
    "div",
    { class: "gx-field gx-width" },
    make("span", { class: "gx-field-words" }, of.words, make("small", {}, " pixels")),
    made.range,
    made.number,
    back,
  );
}
