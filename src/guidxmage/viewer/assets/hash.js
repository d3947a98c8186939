// The state of a viewer in the address of its page, so that a view can be kept and passed on.

import { Areas, fromRuns, toRuns } from "./areas.js";
import { LAYER_NAMES } from "./state.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./bench.js").Bench} Bench */

/** Areas longer than this are left out: some programs cut long addresses. */
const LONGEST_AREAS = 12000;
/** More than fit into so many signs. */
const MOST_AREAS = 2000;
const SETTLES_AFTER = 300;
/** @type {WeakMap<Uint8Array, string>} */
const packedMasks = new WeakMap();
const MODES = ["target", "depth", "all", "typed"];

/**
 * Read the address now, and write every change to it.
 * @param {Bench} bench
 */
export function keepInAddress(bench) {
  restoreFrom(bench, location.hash.slice(1));
  let written = location.hash;
  let waiting = 0;
  bench.store.listeners.add(() => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (bench.life.signal.aborted) return;
      written = `#${othersIn(location.hash)}${writtenState(bench)}`;
      history.replaceState(history.state, "", written);
    }, SETTLES_AFTER);
  });
  window.addEventListener(
    "hashchange",
    () => {
      if (location.hash !== written) restoreFrom(bench, location.hash.slice(1));
    },
    { signal: bench.life.signal },
  );
}

/**
 * What the page around the viewer has in the address, such as which photo it is.
 * @param {string} hash
 */
function othersIn(hash) {
  const parts = hash.slice(1).split("&").filter((part) => /^[^=]{2,}=/.test(part));
  return parts.map((part) => `${part}&`).join("");
}

/** @param {Bench} bench */
export function writtenState(bench) {
  const { state, scene, viewport, areas } = bench;
  const part = new URLSearchParams();
  // Who else asks the same server may have been given other places here.
  part.set("t", String(scene.targets[state.target].number));
  if (state.rather >= 0) part.set("r", String(scene.targets[state.rather].number));
  if (state.depth >= 0) part.set("d", String(state.depth));
  part.set(
    "l",
    LAYER_NAMES.filter(
      (name) => state.layers[name].on && name !== "result" && name !== "perturbation",
    )
      .map((name) => `${name}:${round(state.layers[name].opacity)}`)
      .join(","),
  );
  part.set("b", `${round(state.small)},${round(state.large)}`);
  part.set(
    "m",
    state.scaleMode === "typed"
      ? ["typed", state.typed.pixels, state.typed.saliency, state.typed.whole].join()
      : state.scaleMode,
  );
  if (state.sigma !== null) part.set("s", String(round(state.sigma)));
  if (state.spread !== null) part.set("q", String(round(state.spread)));
  part.set("p", state.palette);
  if (state.blended) part.set("c", "1");
  if (state.theme !== "auto") part.set("h", state.theme);
  const place = viewport.place();
  if (place) part.set("z", [place.zoom, place.x, place.y].map(round).join());
  part.set("k", `${state.row},${state.column}`);
  const packed = areas.list
    .map(({ name, mask }) => `${packedName(name)}~${packedMask(mask)}`)
    .join("!");
  if (packed && packed.length <= LONGEST_AREAS) part.set("a", packed);
  if (state.chosen) part.set("n", state.chosen);
  // These signs are safe in an address, and so it stays readable.
  return part.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
}

/** @param {number} value */
function round(value) {
  return Number(value.toPrecision(5));
}

/**
 * Take from an address what makes sense; what does not is as if it were not there.
 * @param {Bench} bench
 * @param {string} text
 */
export function restoreFrom(bench, text) {
  if (!text) return;
  try {
    const part = new URLSearchParams(text);
    bench.areas.list = areasOf(bench, part.get("a")) ?? bench.areas.list;
    bench.store.set(patchOf(bench, part));
    const place = numbersOf(part.get("z"), 3);
    if (place) bench.viewport.restore({ zoom: place[0], x: place[1], y: place[2] });
    bench.store.touch("view", "areas");
  } catch {
    // An address may come from anywhere.
  }
}

/**
 * @param {Bench} bench
 * @param {URLSearchParams} part
 * @returns {Partial<State>}
 */
function patchOf(bench, part) {
  const { scene, manifest } = bench;
  /** @type {Partial<State>} */
  const patch = {};
  const put = (
    /** @type {keyof State} */ name,
    /** @type {string} */ key,
    /** @type {number} */ below,
    least = 0,
  ) => {
    const value = wholeNumber(part.get(key), below, least);
    if (value !== null) Object.assign(patch, { [name]: value });
  };
  const place = (/** @type {string} */ key) =>
    scene.targets.findIndex(({ number }) => String(number) === part.get(key));
  if (place("t") >= 0) patch.target = place("t");
  if (place("r") >= 0) patch.rather = place("r");
  if (patch.rather === (patch.target ?? 0)) delete patch.rather;
  put("depth", "d", manifest.depths.length);
  const bands = numbersOf(part.get("b"), 2);
  if (bands && bands[0] >= 0 && bands[0] <= bands[1] && bands[1] <= 1)
    [patch.small, patch.large] = bands;
  const sigma = numbersOf(part.get("s"), 1);
  if (sigma && sigma[0] >= 0) [patch.sigma] = sigma;
  const spread = numbersOf(part.get("q"), 1);
  if (spread && spread[0] >= 0) [patch.spread] = spread;
  const palette = part.get("p");
  if (palette === "paper" || palette === "blind") patch.palette = palette;
  const theme = part.get("h");
  if (theme === "light" || theme === "dark") patch.theme = theme;
  patch.blended = part.get("c") === "1";
  const at = part.get("k")?.split(",") ?? [];
  const [row, column] = [wholeNumber(at[0], scene.height), wholeNumber(at[1], scene.width)];
  if (row !== null && column !== null) Object.assign(patch, { row, column });
  const chosen = part.get("n");
  if (chosen !== null && bench.areas.mask(chosen)) patch.chosen = chosen;
  return { ...patch, ...scaleOf(part.get("m")), ...layersOf(bench, part.get("l")) };
}

/**
 * @param {string | null} text
 * @returns {Partial<State>}
 */
function scaleOf(text) {
  const [mode, ...rest] = (text ?? "").split(",");
  if (!MODES.includes(mode)) return {};
  const scaleMode = /** @type {import("./state.js").ScaleMode} */ (mode);
  const typed = numbersOf(rest.join(), 3);
  if (mode !== "typed") return { scaleMode };
  return typed && typed.every((value) => value >= 0)
    ? { scaleMode, typed: { pixels: typed[0], saliency: typed[1], whole: typed[2] } }
    : {};
}

/**
 * @param {Bench} bench
 * @param {string | null} text
 * @returns {Partial<State>}
 */
function layersOf(bench, text) {
  if (text === null) return {};
  const layers = Object.fromEntries(
    LAYER_NAMES.map((name) => [name, { ...bench.state.layers[name], on: false }]),
  );
  for (const one of text.split(",")) {
    const [name, opacity] = one.split(":");
    const value = Number(opacity);
    if (Object.hasOwn(layers, name) && value >= 0 && value <= 1)
      layers[name] = { on: true, opacity: value };
  }
  return { layers };
}

/**
 * The areas that a text stands for; null where there are none, or it makes no sense.
 * @param {Bench} bench
 * @param {string | null} text
 */
function areasOf(bench, text) {
  const found = new Areas(bench.scene.pixels);
  const parts = text?.split("!") ?? [];
  if (!text || parts.length > MOST_AREAS) return null;
  try {
    for (const part of parts) {
      const [name, runs] = part.split("~");
      const mask = fromRuns(unpackedRuns(runs, bench.scene.pixels), bench.scene.pixels);
      found.add(decodeURIComponent(name).slice(0, 60), mask);
    }
  } catch {
    return null;
  }
  return found.list;
}

/**
 * A name without the signs that stand between areas.
 * @param {string} name
 */
function packedName(name) {
  return encodeURIComponent(name).replaceAll("!", "%21").replaceAll("~", "%7E");
}

/**
 * The runs of a mask as text. Masks never change, and packing large ones takes a while.
 * @param {Uint8Array} mask
 */
function packedMask(mask) {
  const text = packedMasks.get(mask) ?? packedRuns(toRuns(mask));
  packedMasks.set(mask, text);
  return text;
}

/**
 * Pairs of run lengths in the base 36; equal pairs one after another, as rectangles have, once.
 * @param {number[]} runs
 */
function packedRuns(runs) {
  const parts = [];
  for (let at = 0; at < runs.length;) {
    const pair = runs.slice(at, at + 2);
    let times = 1;
    while (
      pair.length === 2 &&
      runs[at + 2 * times] === pair[0] &&
      runs[at + 2 * times + 1] === pair[1]
    )
      times += 1;
    parts.push(
      pair.map((run) => run.toString(36)).join(".") + (times > 1 ? `*${times.toString(36)}` : ""),
    );
    at += 2 * times;
  }
  return parts.join("-");
}

/**
 * @param {string} text
 * @param {number} pixels
 */
function unpackedRuns(text, pixels) {
  /** @type {number[]} */
  const runs = [];
  for (const part of text.split("-")) {
    const [pair, times = "1"] = part.split("*");
    const numbers = pair.split(".").map((run) => parseInt(run, 36));
    const count = parseInt(times, 36);
    // No mask has more runs than pixels, whatever an address says.
    const all = runs.length + count * numbers.length;
    if (!(count >= 1 && all <= pixels + 2)) throw new Error("no run length");
    for (let time = 0; time < count; time += 1) runs.push(...numbers);
  }
  return runs;
}

/**
 * @param {string | null | undefined} text
 * @param {number} below
 * @param {number} [least]
 */
function wholeNumber(text, below, least = 0) {
  const value = Number(text);
  return text && Number.isInteger(value) && value >= least && value < below ? value : null;
}

/**
 * @param {string | null} text
 * @param {number} count
 */
function numbersOf(text, count) {
  const values = (text ?? "").split(",").map(Number);
  return text && values.length === count && values.every(Number.isFinite) ? values : null;
}
