// What the viewer shows, in one place: panels write to it and listen to it, and know no other.

/**
 * @typedef {{on: boolean, opacity: number}} LayerState
 * @typedef {"target" | "depth" | "all" | "typed"} ScaleMode
 * @typedef {"move" | "rectangle" | "brush" | "lasso" | "object" | "superpixel"} ToolName
 * @typedef {{pixels: number, saliency: number, whole: number}} Scales
 *
 * @typedef {object} State
 * @property {number} target Which of the targets is shown.
 * @property {number} rather Which other target is subtracted from it; -1 for none.
 * @property {number} depth Which depth; -1 where there is none.
 * @property {Record<string, LayerState>} layers
 * @property {number} small The share of the scale up to which a value is calm.
 * @property {number} large The share of the scale from which on a value is strong.
 * @property {ScaleMode} scaleMode
 * @property {Scales} typed Scales typed by hand.
 * @property {number | null} sigma Of the whole map, in pixels; null for the depth's own.
 * @property {number | null} spread Of the saliency map, in pixels; null for the default.
 * @property {string} palette
 * @property {"auto" | "light" | "dark"} theme
 * @property {boolean} blended Whether the distribution map blends its colours.
 * @property {ToolName} tool
 * @property {"new" | "add" | "take"} mode What becomes of a drawn shape.
 * @property {number} brush The radius in pixels.
 * @property {number} row Of the cursor.
 * @property {number} column Of the cursor.
 * @property {string} chosen The name of the chosen area, "" for none.
 *
 * @typedef {(changed: Set<string>) => void} Listener
 */

/** The layers from the bottom to the top. */
export const LAYER_NAMES = Object.freeze([
  "photo",
  "distribution",
  "saliency",
  "placed",
  "whole",
  "result",
  "perturbation",
]);

/** The default width of the saliency map's Gaussian, as a share of the shorter side. */
const SPREAD_SHARE = 0.02;

/** The state of a viewer and who wants to know of its changes. */
export class Store {
  /** @param {State} state */
  constructor(state) {
    this.state = state;
    /** @type {Set<Listener>} */
    this.listeners = new Set();
  }

  /** @param {Partial<State>} patch */
  set(patch) {
    const changed = new Set();
    for (const [name, value] of Object.entries(patch)) {
      const key = /** @type {keyof State} */ (name);
      if (this.state[key] !== value) changed.add(name);
    }
    if (!changed.size) return;
    Object.assign(this.state, patch);
    this.tell(changed);
  }

  /**
   * @param {string} name
   * @param {Partial<LayerState>} patch
   */
  setLayer(name, patch) {
    const layers = this.state.layers;
    this.set({ layers: { ...layers, [name]: { ...layers[name], ...patch } } });
  }

  /**
   * Say that something changed which the state does not hold itself, such as the areas.
   * @param {...string} names
   */
  touch(...names) {
    this.tell(new Set(names));
  }

  /** @param {Set<string>} changed */
  tell(changed) {
    for (const listener of [...this.listeners]) listener(changed);
  }

  /**
   * Call back now, and whenever one of some names changes, until the signal ends it.
   * @param {string[]} names
   * @param {() => void} callback
   * @param {AbortSignal} [until]
   */
  watch(names, callback, until) {
    /** @type {Listener} */
    const listener = (changed) => {
      if (names.some((name) => changed.has(name))) callback();
    };
    this.listeners.add(listener);
    until?.addEventListener("abort", () => this.listeners.delete(listener));
    callback();
  }
}

/**
 * What is shown first.
 * @param {import("./types.js").Manifest} manifest
 * @returns {State}
 */
export function firstState(manifest) {
  const [height, width] = manifest.size;
  const deep = manifest.depths.length > 0;
  const off = { on: false, opacity: 1 };
  return {
    target: 0,
    rather: -1,
    depth: deep ? Math.max(0, manifest.depth) : -1,
    layers: {
      photo: { on: true, opacity: 1 },
      distribution: { on: !deep, opacity: 1 },
      saliency: { ...off },
      placed: { ...off },
      whole: { on: deep, opacity: 1 },
      result: { ...off },
      perturbation: { ...off },
    },
    small: 0.1,
    large: 0.5,
    scaleMode: "target",
    typed: { pixels: 0, saliency: 0, whole: 0 },
    sigma: null,
    spread: null,
    palette: "paper",
    theme: "auto",
    blended: false,
    tool: "move",
    mode: "new",
    brush: Math.max(1, Math.round(Math.min(height, width) / 28)),
    row: Math.floor(height / 2),
    column: Math.floor(width / 2),
    chosen: "",
  };
}

/**
 * The widths in use, in pixels: of the whole map and of the saliency map.
 * @param {State} state
 * @param {import("./types.js").Manifest} manifest
 */
export function widthsOf(state, manifest) {
  return {
    whole: state.sigma ?? manifest.depths[state.depth]?.sigma ?? 0,
    saliency: state.spread ?? SPREAD_SHARE * Math.min(...manifest.size),
  };
}
