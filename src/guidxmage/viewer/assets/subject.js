// What is looked at: one target, or one rather than another, which is their difference.

import { contrastOf } from "./contrast.js";
import { reduced, largestOf } from "./reducing.js";
import { percentileScale } from "./numbers.js";
import { reflecting, spread } from "./smoothing.js";

/**
 * @typedef {import("./types.js").Numbers} Numbers
 * @typedef {import("./target.js").Target} Target
 * @typedef {"whole" | "placed" | "saliency"} SmoothKind
 * @typedef {{sigma: number, promise: Promise<Float64Array>, control: AbortController}} Smoothing
 */

/** From this side on, a scale over all depths is taken from maps reduced by averaging. */
const SCALE_SIDE = 640;

/** A target or a difference of two, with its maps. */
export class Subject {
  /**
   * @param {import("./scene.js").Scene} scene
   * @param {Target} plus
   * @param {Target | null} minus
   */
  constructor(scene, plus, minus) {
    this.scene = scene;
    this.plus = plus;
    this.minus = minus;
    this.entry = minus ? contrastOf(plus.entry, minus.entry) : plus.entry;
    /** @type {Map<string, Promise<any>>} */
    this.kept = new Map();
    /** @type {Map<string, Smoothing>} */
    this.smoothings = new Map();
  }

  /**
   * @template T
   * @param {string} name
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  once(name, work) {
    let promise = this.kept.get(name);
    if (!promise) {
      promise = work().catch((error) => {
        this.kept.delete(name);
        throw error;
      });
      this.kept.set(name, promise);
    }
    return promise;
  }

  /** The contribution of every pixel, and a way to each channel's numbers. */
  numbers() {
    return this.once("numbers", async () => {
      const [plus, minus] = await Promise.all([this.plus.load(), this.minus?.load()]);
      const less = (
        /** @type {Numbers} */ a,
        /** @type {Numbers | undefined} */ b,
        /** @type {number} */ at,
      ) => (b ? a[at] - b[at] : a[at]);
      return {
        pixels: minus ? differenceOf(plus.pixels, minus.pixels) : plus.pixels,
        weight: (/** @type {number} */ at) => less(plus.weights, minus?.weights, at),
        contribution: (/** @type {number} */ at) =>
          less(plus.contributions, minus?.contributions, at),
      };
    });
  }

  /**
   * Whether there is a map of a kind at a depth.
   * @param {"whole" | "placed"} kind
   * @param {number} depth
   */
  has(kind, depth) {
    return this.plus.has(kind, depth) && (this.minus?.has(kind, depth) ?? true);
  }

  /**
   * A map at a depth, as it is; null where there is none.
   * @param {"whole" | "placed"} kind
   * @param {number} depth
   * @returns {Promise<Numbers | null>}
   */
  map(kind, depth) {
    return this.once(`${kind}.${depth}`, async () => {
      const plus = await this.plus.map(kind, depth);
      if (!this.minus || !plus) return plus;
      const minus = await this.minus.map(kind, depth);
      return minus && differenceOf(plus, minus);
    });
  }

  /**
   * A map through a Gaussian. A newer width ends the work on an older one.
   * @param {SmoothKind} kind
   * @param {number} depth
   * @param {number} sigma
   * @returns {Promise<Float64Array>}
   */
  smooth(kind, depth, sigma) {
    const place = kind === "saliency" ? kind : `${kind}.${depth}`;
    const found = this.smoothings.get(place);
    if (found && found.sigma === sigma) return found.promise;
    found?.control.abort();
    const control = new AbortController();
    const promise = this.smoothed(kind, depth, sigma, control.signal);
    const made = { sigma, promise, control };
    promise.catch(() => {
      if (this.smoothings.get(place) === made) this.smoothings.delete(place);
    });
    this.smoothings.set(place, made);
    return promise;
  }

  /**
   * @param {SmoothKind} kind
   * @param {number} depth
   * @param {number} sigma
   * @param {AbortSignal} signal
   */
  async smoothed(kind, depth, sigma, signal) {
    const { height, width } = this.scene;
    if (kind === "saliency") {
      return spread((await this.numbers()).pixels, height, width, sigma, signal);
    }
    const values = await this.map(kind, depth);
    if (!values) throw new Error(`There is no ${kind} map at this depth.`);
    return reflecting(values, height, width, sigma, signal);
  }

  /** The scale of the distribution map. */
  pixelScale() {
    return this.once("scale", async () => percentileScale((await this.numbers()).pixels));
  }

  /**
   * The scale of the saliency map.
   * @param {number} sigma
   */
  async saliencyScale(sigma) {
    return percentileScale(await this.smooth("saliency", 0, sigma));
  }

  /**
   * The largest magnitude of the smoothed whole maps, so that none of the depths saturates.
   * @param {number[]} depths
   * @param {number | null} sigma for all depths, or null for each one's own
   */
  async wholeScale(depths, sigma) {
    let largest = 0;
    for (const depth of depths) {
      const used = sigma ?? this.scene.manifest.depths[depth].sigma;
      largest = Math.max(
        largest,
        await this.once(`largest.${depth}.${used}`, () => this.largest(depth, used)),
      );
    }
    return largest;
  }

  /**
   * @param {number} depth
   * @param {number} sigma
   */
  async largest(depth, sigma) {
    const { height, width } = this.scene;
    const step = Math.ceil(Math.max(height, width) / SCALE_SIDE);
    const values = await this.map("whole", depth);
    if (!values) return 0;
    if (step === 1) return largestOf(await reflecting(values, height, width, sigma));
    const small = reduced(values, height, width, step);
    return largestOf(await reflecting(small.values, small.height, small.width, sigma / step));
  }
}

/**
 * @param {Numbers} plus
 * @param {Numbers} minus
 */
function differenceOf(plus, minus) {
  const out = new Float64Array(plus.length);
  for (let at = 0; at < out.length; at += 1) out[at] = plus[at] - minus[at];
  return out;
}
