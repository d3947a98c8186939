// One explained class: its numbers as they come from Python, loaded when first asked for.

import { contributionsOf, pixelValues } from "./numbers.js";

/**
 * @typedef {import("./types.js").TypedArray} TypedArray
 * @typedef {import("./types.js").Target} TargetNumbers
 */

/** A target and its arrays. */
export class Target {
  /**
   * @param {import("./scene.js").Scene} scene
   * @param {TargetNumbers} entry
   * @param {number} key which arrays are its own: weights.KEY and so on
   * @param {number} number what a question calls it
   */
  constructor(scene, entry, key, number) {
    this.scene = scene;
    this.entry = entry;
    this.key = key;
    this.number = number;
    /** @type {Promise<LoadedTarget> | null} */
    this.loading = null;
  }

  /** @returns {Promise<LoadedTarget>} */
  load() {
    // A failed load is not kept, so that the next try may succeed.
    this.loading ??= this.read().catch((error) => {
      this.loading = null;
      throw error;
    });
    return this.loading;
  }

  async read() {
    const { arrays, height, width, channels } = this.scene;
    const weights = await arrays.get(`weights.${this.key}`);
    const own = `contributions.${this.key}`;
    const contributions = arrays.has(own)
      ? await arrays.get(own)
      : contributionsOf(
          weights,
          await arrays.get("input"),
          arrays.has("reference") ? await arrays.get("reference") : null,
        );
    const pixels = pixelValues(contributions, channels.length, height * width);
    return { weights, contributions, pixels };
  }

  /**
   * Whether it has a map of a kind at a depth.
   * @param {"whole" | "placed"} kind
   * @param {number} depth
   */
  has(kind, depth) {
    return this.scene.arrays.has(`${kind}.${this.key}.${depth}`);
  }

  /**
   * Its map of a kind at a depth; null where there is none.
   * @param {"whole" | "placed"} kind
   * @param {number} depth
   * @returns {Promise<TypedArray | null>}
   */
  async map(kind, depth) {
    return this.has(kind, depth) ? this.scene.arrays.get(`${kind}.${this.key}.${depth}`) : null;
  }
}

/** @typedef {{weights: TypedArray, contributions: TypedArray, pixels: Float64Array}} LoadedTarget */
