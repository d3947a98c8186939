// Paints each layer of the stage onto a canvas of the picture's size.

import { paintBands, paintContinuous, paintSaliency, paintWhole, PALETTES } from "./colors.js";
import { paintPerturbation } from "./perturbation.js";
import { blankCanvas, penOf } from "./pyramid.js";
import { widthsOf } from "./state.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./types.js").Numbers} Numbers
 * @typedef {{values: Numbers, scale: number}} Signed
 * @typedef {{canvas: HTMLCanvasElement, key: string, signed: Signed | null}} Painted
 * @typedef {import("./bench.js").Bench} Bench
 */

/**
 * The palette of this name, or the first.
 * @param {string} name
 */
export function paletteOf(name) {
  return name === "blind" ? PALETTES.blind : PALETTES.paper;
}

/** The layers as canvases; only what is shown is painted, and only when it changed. */
export class Painter {
  /** @param {Bench} bench */
  constructor(bench) {
    this.bench = bench;
    /** @type {Map<string, Painted>} */
    this.painted = new Map();
    /** @type {ImageData | null} */
    this.scratch = null;
    /** What the questions brought: another picture, a perturbation. */
    /** @type {{picture: Uint8Array | null, delta: Numbers | null, number: number}} */
    this.answers = { picture: null, delta: null, number: 0 };
  }

  /** @param {{picture?: Uint8Array | null, delta?: Numbers | null}} answers */
  take(answers) {
    const number = this.answers.number + 1;
    this.answers = { picture: answers.picture ?? null, delta: answers.delta ?? null, number };
  }

  /**
   * All that the look of a layer depends on.
   * @param {string} name
   * @param {State} state
   * @param {import("./state.js").Scales} scales
   */
  keyOf(name, state, scales) {
    const widths = widthsOf(state, this.bench.scene.manifest);
    const subject = [state.target, state.rather, state.palette];
    switch (name) {
      case "distribution":
        return [...subject, scales.pixels, state.small, state.large, state.blended].join();
      case "saliency":
        return [...subject, scales.saliency, widths.saliency].join();
      case "placed":
      case "whole":
        return [...subject, scales.whole, state.depth, widths.whole].join();
      case "photo":
        return "photo";
      default:
        return String(this.answers.number);
    }
  }

  /**
   * A layer's canvas, painted anew where it must be; null where there is nothing to show.
   * @param {string} name
   * @param {State} state
   * @param {import("./state.js").Scales} scales
   * @param {() => boolean} current whether it is still wanted
   * @returns {Promise<Painted | null>}
   */
  async paint(name, state, scales, current) {
    const key = this.keyOf(name, state, scales);
    const found = this.painted.get(name);
    if (found?.key === key) return found;
    const { width, height } = this.bench.scene;
    const work = await this.workFor(name, state, scales);
    if (!work || !current()) return null;
    const canvas = found?.canvas ?? blankCanvas(width, height);
    this.scratch ??= new ImageData(width, height);
    work.paint(this.scratch.data);
    penOf(canvas).putImageData(this.scratch, 0, 0);
    const made = { canvas, key, signed: work.signed ?? null };
    this.painted.set(name, made);
    return made;
  }

  /**
   * @param {string} name
   * @param {State} state
   * @param {import("./state.js").Scales} scales
   * @returns {Promise<{paint: (out: Uint8ClampedArray) => void, signed?: Signed} | null>}
   */
  async workFor(name, state, scales) {
    const { scene } = this.bench;
    const palette = paletteOf(state.palette);
    const subject = scene.subject(state.target, state.rather);
    const widths = widthsOf(state, scene.manifest);
    switch (name) {
      case "distribution": {
        const { pixels } = await subject.numbers();
        const signed = { values: pixels, scale: scales.pixels };
        return state.blended
          ? { paint: (out) => paintContinuous(pixels, scales.pixels, palette, out), signed }
          : {
              paint: (out) =>
                paintBands(pixels, scales.pixels, state.small, state.large, palette, out),
              signed,
            };
      }
      case "saliency": {
        const [picture, smooth] = await Promise.all([
          scene.picture(),
          subject.smooth("saliency", 0, widths.saliency),
        ]);
        const signed = { values: smooth, scale: scales.saliency };
        return {
          paint: (out) => paintSaliency(picture, smooth, scales.saliency, palette, out),
          signed,
        };
      }
      case "placed":
      case "whole": {
        if (state.depth < 0 || !(await subject.map(name, state.depth))) return null;
        const [picture, smooth] = await Promise.all([
          scene.picture(),
          subject.smooth(name, state.depth, widths.whole),
        ]);
        const signed = { values: smooth, scale: scales.whole };
        return { paint: (out) => paintWhole(smooth, scales.whole, palette, out, picture), signed };
      }
      default:
        return this.picturesFor(name);
    }
  }

  /**
   * @param {string} name
   * @returns {Promise<{paint: (out: Uint8ClampedArray) => void} | null>}
   */
  async picturesFor(name) {
    const { scene } = this.bench;
    if (name === "perturbation") {
      const { delta } = this.answers;
      return delta && { paint: (out) => paintPerturbation(delta, scene.channels.length, out) };
    }
    const picture = name === "photo" ? await scene.picture() : this.answers.picture;
    return picture && { paint: (out) => paintPicture(picture, out) };
  }
}

/**
 * @param {Uint8Array} picture RGB
 * @param {Uint8ClampedArray} out RGBA
 */
function paintPicture(picture, out) {
  for (let at = 0, to = 0; at < picture.length; at += 3, to += 4) {
    out[to] = picture[at];
    out[to + 1] = picture[at + 1];
    out[to + 2] = picture[at + 2];
    out[to + 3] = 255;
  }
}
