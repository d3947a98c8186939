// Questions about a photo, answered by the graph beside the page: one more who answers, in the
// place of a server or a kernel.

import { fromRuns } from "./areas.js";
import { Arrays } from "./arrays.js";
import { fillingOf } from "./filling.js";
import { signed } from "./words.js";

/**
 * @typedef {import("./graph.js").Graph} Graph
 * @typedef {import("./graph.js").GraphNumbers} GraphNumbers
 * @typedef {import("./graph.js").OnProgress} OnProgress
 * @typedef {import("./types.js").Answer} Answer
 * @typedef {import("./types.js").EraseQuestion} EraseQuestion
 * @typedef {import("./types.js").Question} Question
 * @typedef {import("./types.js").Source} Source
 * @typedef {import("./types.js").Target} TargetEntry
 * @typedef {import("./types.js").TypedArray} TypedArray
 */

/** How far another runtime's logits may be off, of the largest one. */
const LOGIT_SHARE = 1e-4;
/** What rounding makes of a difference of two logits, of the largest one. */
const ROUNDED_SHARE = 1e-5;

/**
 * A source that the graph answers for, or one that says why it cannot.
 * @param {Source} source
 * @param {Graph | null} graph
 * @returns {Source}
 */
export function withGraph(source, graph) {
  if (graph === null) return source;
  /** @type {Question["kind"][]} */
  const asks = ["erase", "explain"];
  const instead = graph.hindrance || unfit(source.manifest, graph.about);
  if (instead) return { ...source, asks, instead };
  const answers = new GraphAnswers(source, graph);
  return {
    ...source,
    asks,
    ask: (question, onProgress, signal) => answers.answer(question, onProgress, signal),
  };
}

/**
 * Why a graph cannot be asked about a photo; "" where it can.
 * @param {import("./types.js").Manifest} manifest
 * @param {import("./graph.js").GraphAbout} about
 */
function unfit(manifest, about) {
  const own = manifest.evidence.fingerprints?.model;
  if (own && own !== about.fingerprint) {
    return `This photo was explained by ${manifest.network}, and the graph beside this page is another network.`;
  }
  const shape = [manifest.channels.length, ...manifest.size].join("×");
  return manifest.space === about.space && shape === about.shape.join("×")
    ? ""
    : `This photo was explained in the space “${manifest.space}” at ${shape}, and the graph beside ` +
        `this page takes “${about.space}” at ${about.shape.join("×")}.`;
}

/**
 * The numbers of one explained class as the viewer has them.
 * @param {Graph} graph
 * @param {GraphNumbers} found
 * @param {number} index
 * @returns {TargetEntry}
 */
export function entryOf(graph, found, index) {
  const sum = found.contributions.reduce((total, value) => total + value, 0);
  const score = found.logits[index];
  const largest = found.logits.reduce((a, b) => Math.max(a, b));
  const powers = found.logits.reduce((total, one) => total + Math.exp(one - largest), 0);
  return {
    name: graph.nameOf(index),
    target: index,
    against: -1,
    score,
    probability: Math.exp(score - largest) / powers,
    contribution_sum: sum,
    bias: found.bias,
    residual: score - sum - found.bias,
    residual_bound: null,
    bias_by_layer: [],
    depths: [],
  };
}

/**
 * Δ as the graph gives it, or from A = Δ ⊙ (X − R); not a number where X is R.
 * @param {Graph} graph
 * @param {GraphNumbers} found
 * @param {TypedArray} X
 */
export function weightsOf(graph, found, X) {
  if (found.weights) return found.weights;
  const { colour, shape } = graph.about;
  const pixels = shape[1] * shape[2];
  return found.contributions.map((value, at) => {
    const apart = colour ? X[at] - Math.fround(colour[Math.floor(at / pixels)]) : 0;
    return apart ? value / apart : NaN;
  });
}

/** Answers about one photo, whose classes it comes to know. */
export class GraphAnswers {
  /**
   * @param {Source} source
   * @param {Graph} graph
   */
  constructor(source, graph) {
    this.graph = graph;
    this.manifest = source.manifest;
    this.arrays = new Arrays(source);
    this.entries = [...source.manifest.targets];
    /** Whether the graph gives this photo the score that was explained. */
    this.checked = false;
  }

  /**
   * @param {Question} question
   * @param {OnProgress} onProgress
   * @param {AbortSignal} signal
   * @returns {Promise<Answer>}
   */
  async answer(question, onProgress, signal) {
    if (question.kind === "erase") return this.erased(question, onProgress, signal);
    if (question.kind === "explain" && question.against < 0) {
      return this.explained(question.target, onProgress, signal);
    }
    throw new Error("The graph beside this page cannot be asked that.");
  }

  /**
   * @param {number} index
   * @param {OnProgress} onProgress
   * @param {AbortSignal} signal
   * @returns {Promise<Answer>}
   */
  async explained(index, onProgress, signal) {
    const X = Float32Array.from(await this.arrays.get("input"));
    const found = await this.graph.run(X, index, onProgress, signal);
    this.check(found);
    const number = this.entries.length;
    const entry = entryOf(this.graph, found, index);
    this.entries.push(entry);
    const named = {
      [`weights.${number}`]: weightsOf(this.graph, found, X),
      [`contributions.${number}`]: found.contributions,
    };
    for (const [name, values] of Object.entries(named)) {
      this.arrays.add(name, { dtype: "float32", shape: this.graph.about.shape }, bytesOf(values));
    }
    return { kind: "explain", number, entry, ...arraysOf(named, this.graph.about.shape) };
  }

  /**
   * @param {EraseQuestion} question
   * @param {OnProgress} onProgress
   * @param {AbortSignal} signal
   * @returns {Promise<Answer>}
   */
  async erased(question, onProgress, signal) {
    const { about } = this.graph;
    const entry = this.entries[question.target];
    const X = Float32Array.from(await this.arrays.get("input"));
    const weights = await this.arrays.get(`weights.${question.target}`);
    const [channels, height, width] = about.shape;
    const mask = fromRuns(question.area.runs, height * width);
    const filling = await fillingOf(question, X, about, signal);
    const Z = X.slice();
    let change = 0;
    for (let at = 0; at < Z.length; at += 1) {
      if (!mask[at % mask.length]) continue;
      Z[at] = filling.values[at];
      if (Z[at] !== X[at]) change += weights[at] * (Z[at] - X[at]);
    }
    if (Number.isNaN(change)) {
      throw new Error(
        "The graph gives no weights, which this filling needs; export it with weights among " +
          "--outputs, or fill with the network's zero.",
      );
    }
    if (!this.checked) this.check(await this.graph.run(X, -1, onProgress, signal));
    const { logits } = await this.graph.run(Z, -1, onProgress, signal);
    const numbers = this.compared(question, { mask, change, logits, words: filling.words, entry });
    const picture = channels === 3 || channels === 1 ? this.picture(Z) : null;
    return picture
      ? { ...numbers, ...arraysOf({ picture }, [height, width, 3]) }
      : { ...numbers, ...arraysOf({}, []) };
  }

  /**
   * What changed, as the erase panel shows it.
   * @param {EraseQuestion} question
   * @param {{mask: Uint8Array, change: number, logits: Float32Array, words: string,
   *   entry: TargetEntry}} of
   * @returns {import("./types.js").EraseNumbers}
   */
  compared(question, { mask, change, logits, words, entry }) {
    const after = scoreOf(logits, entry);
    const predicted = entry.contribution_sum + entry.bias + change;
    const pixels = mask.reduce((count, one) => count + one, 0);
    const best = logits.indexOf(Math.max(...logits));
    const [index, name] = this.manifest.classes[0] ?? [0, ""];
    const gap = after - predicted;
    const numbers = {
      pixels,
      before: entry.score,
      predicted,
      after,
      predicted_change: predicted - entry.score,
      real_change: after - entry.score,
      gap,
    };
    const filled = `${pixels === 1 ? "1 pixel" : `${pixels.toLocaleString("en-US")} pixels`} filled with ${words}`;
    return {
      kind: "erase",
      fill: question.fill,
      ...numbers,
      bound: null,
      decisions: null,
      flipped: null,
      flipped_by_layer: [],
      answer_before: [index, name],
      answer_after: [best, this.graph.nameOf(best)],
      sentence:
        `${filled}: of ${entry.name} the symbolic model predicts ` +
        `${signed(numbers.predicted_change)}, the network makes ${signed(numbers.real_change)}; ` +
        this.why(gap, entry, logits),
    };
  }

  /**
   * @param {number} gap
   * @param {TargetEntry} entry
   * @param {Float32Array} logits
   */
  why(gap, entry, logits) {
    const rounding = Math.max(2 * (entry.residual_bound ?? 0), ROUNDED_SHARE * largestSize(logits));
    if (Math.abs(gap) <= rounding) return `the gap of ${signed(gap, 3)} is no more than rounding`;
    const smooth = this.manifest.exactness.includes("at input");
    const whose = smooth ? "decisions that flipped, and of smooth operators" : "decisions that flipped";
    return `the gap of ${signed(gap, 3)} is that of ${whose}; the graph does not count them`;
  }

  /**
   * The network must be the one that the photo was explained by.
   * @param {GraphNumbers} found
   */
  check({ logits }) {
    const entry = this.entries[0];
    const apart = Math.abs(scoreOf(logits, entry) - entry.score);
    const allowed = Math.max(2 * (entry.residual_bound ?? 0), LOGIT_SHARE * largestSize(logits));
    if (!(apart <= allowed)) {
      throw new Error(
        "The graph beside this page gives the photo another score; it is of another network, or " +
          "the photo was explained before the network changed.",
      );
    }
    this.checked = true;
  }

  /**
   * An image to be looked at, RGB; null where it is not known how.
   * @param {Float32Array} Z
   */
  picture(Z) {
    const { space, shape, preprocessing: known } = this.graph.about;
    if (!Object.hasOwn(this.manifest.arrays, "picture") || (space === "input" && !known)) return null;
    const pixels = shape[1] * shape[2];
    const rgb = new Uint8Array(3 * pixels);
    for (let at = 0; at < pixels; at += 1) {
      for (let color = 0; color < 3; color += 1) {
        const channel = shape[0] === 3 ? color : 0;
        const own = Z[channel * pixels + at];
        const value =
          space === "input" && known ? own * known.std[channel] + known.mean[channel] : own;
        rgb[3 * at + color] = Math.round(255 * Math.min(Math.max(value, 0), 1));
      }
    }
    return rgb;
  }
}

/**
 * @param {Float32Array} logits
 * @param {TargetEntry} entry
 */
function scoreOf(logits, { target, against }) {
  return logits[target] - (against < 0 ? 0 : logits[against]);
}

/** @param {Float32Array} logits */
function largestSize(logits) {
  return logits.reduce((largest, one) => Math.max(largest, Math.abs(one)), 0);
}

/**
 * Arrays as an answer or a source has them.
 * @param {Record<string, Float32Array | Uint8Array>} named
 * @param {number[]} shape
 */
export function arraysOf(named, shape) {
  const arrays = Object.fromEntries(
    Object.entries(named).map(([name, values]) => [
      name,
      { dtype: values instanceof Uint8Array ? "uint8" : "float32", shape },
    ]),
  );
  const array = async (/** @type {string} */ name) => bytesOf(named[name]);
  return { arrays, array };
}

/**
 * @param {Float32Array | Uint8Array} values
 * @returns {ArrayBuffer}
 */
function bytesOf(values) {
  return /** @type {ArrayBuffer} */ (
    values.buffer.slice(values.byteOffset, values.byteOffset + values.byteLength)
  );
}
