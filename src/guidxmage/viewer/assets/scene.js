// The explanation of one photo: its manifest, its arrays, and the subjects one may look at.

import { Arrays } from "./arrays.js";
import { Subject } from "./subject.js";
import { Target } from "./target.js";

/** So many subjects are kept; each may hold some hundred megabytes. */
const KEPT_SUBJECTS = 4;

/** A manifest and what it describes. */
export class Scene {
  /** @param {import("./types.js").Source} source */
  constructor(source) {
    this.manifest = source.manifest;
    this.arrays = new Arrays(source);
    this.height = this.manifest.size[0];
    this.width = this.manifest.size[1];
    this.channels = this.manifest.channels;
    this.targets = this.manifest.targets.map(
      (entry, number) => new Target(this, entry, number, number),
    );
    /** @type {Map<string, Subject>} */
    this.subjects = new Map();
  }

  get pixels() {
    return this.height * this.width;
  }

  /**
   * Whether any target has a map of a kind at any depth.
   * @param {"whole" | "placed"} kind
   */
  has(kind) {
    return this.targets.some((one) => this.manifest.depths.some((_, depth) => one.has(kind, depth)));
  }

  /**
   * One target, or one rather than another.
   * @param {number} target
   * @param {number} rather -1 for none
   */
  subject(target, rather) {
    const key = `${target}-${rather}`;
    const found =
      this.subjects.get(key) ??
      new Subject(this, this.targets[target], this.targets[rather] ?? null);
    this.subjects.delete(key); // the newest stands last
    this.subjects.set(key, found);
    for (const old of this.subjects.keys()) {
      if (this.subjects.size <= KEPT_SUBJECTS) break;
      this.subjects.delete(old);
    }
    return found;
  }

  /**
   * Take in a target that was asked for later.
   * @param {import("./types.js").ExplainAnswer} answer
   * @returns {Promise<number>} its place among the targets
   */
  async addTarget(answer) {
    const key = this.targets.length;
    // Others may have asked the same server, so that its number may be taken here.
    for (const [name, described] of Object.entries(answer.arrays)) {
      const [kind, , ...rest] = name.split(".");
      this.arrays.add([kind, key, ...rest].join("."), described, await answer.array(name));
    }
    this.targets.push(new Target(this, answer.entry, key, answer.number));
    return key;
  }

  /**
   * The labels of objects or superpixels; null where there are none.
   * @param {"objects" | "superpixels"} kind
   * @returns {Promise<import("./types.js").TypedArray | null>}
   */
  async labels(kind) {
    return this.arrays.has(kind) ? this.arrays.get(kind) : null;
  }

  /**
   * What a label map calls one of its labels.
   * @param {"objects" | "superpixels"} kind
   * @param {number} label
   */
  labelName(kind, label) {
    if (kind === "superpixels") return `superpixel ${label}`;
    return this.manifest.objects?.names[String(label)] ?? `object ${label}`;
  }

  /** @returns {Promise<Uint8Array | null>} */
  async picture() {
    return this.arrays.has("picture")
      ? /** @type {Uint8Array} */ (await this.arrays.get("picture"))
      : null;
  }
}
