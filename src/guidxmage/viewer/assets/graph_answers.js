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
 * @typedef {import("./types.js").Depth} Depth
 * @typedef {import("./types.js").EraseQuestion} EraseQuestion
 * @typedef {import("./types.js").Question} Question
 * @typedef {import("./types.js").Source} Source
 * @typedef {import("./types.js").Target} TargetEntry
 * @typedef {import("./types.js").TargetDepth} DepthEntry
 * @typedef {import("./types.js").TypedArray} TypedArray
 * @typedef {Float32Array | Float64Array | Uint8Array} Values
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
 * @param {Depth[]} depths Of the photo.
 * @returns {TargetEntry}
 */
export function entryOf(graph, found, index, depths) {
  const sum = totalIn(found.contributions);
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
    residual_bound: found.bound,
    bias_by_layer: [],
    depths: depths.map((one) => (isOf(graph, one) ? entryAtDepth(found, score) : null)),
  };
}

/**
 * Whether a graph's whole map is of this depth.
 * @param {Graph} graph
 * @param {Depth} depth
 */
function isOf({ about }, { site, grid, stride }) {
  const own = about.depth;
  return (
    own !== null && own.site === site && own.stride === stride && own.grid.join() === grid.join()
  );
}

/**
 * The sums of the whole map; the graph does not say what of it is placed bias.
 * @param {GraphNumbers} found
 * @param {number} score
 * @returns {DepthEntry | null}
 */
function entryAtDepth({ whole, unplaced, bound }, score) {
  if (whole === null || unplaced === null) return null;
  const sum = totalIn(whole);
  return {
    whole_sum: sum,
    placed_bias_sum: null,
    unplaced,
    unplaced_by_layer: [],
    residual: score - sum - unplaced,
    residual_bound: bound,
  };
}

/** @param {Float32Array | Float64Array} values */
function totalIn(values) {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

/**
 * The arrays of one explained class, as `arraysOf` takes them.
 * @param {Graph} graph
 * @param {GraphNumbers} found
 * @param {{X: TypedArray, entry: TargetEntry, number: number}} of
 * @returns {Record<string, [Values, number[]]>}
 */
export function namedArrays(graph, found, { X, entry, number }) {
  const { shape } = graph.about;
  /** @type {Record<string, [Values, number[]]>} */
  const named = {
    [`weights.${number}`]: [weightsOf(graph, found, X), shape],
    [`contributions.${number}`]: [found.contributions, shape],
  };
  const depth = entry.depths.findIndex((one) => one !== null);
  if (found.whole && depth >= 0) named[`whole.${number}.${depth}`] = [found.whole, shape.slice(1)];
  return named;
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
    const entry = entryOf(this.graph, found, index, this.manifest.depths);
    this.entries.push(entry);
    const made = arraysOf(namedArrays(this.graph, found, { X, entry, number }));
    const own = `weights.${number}`; // what erasing needs
    this.arrays.add(own, made.arrays[own], await made.array(own));
    return { kind: "explain", number, entry, ...made };
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
    return { ...numbers, ...arraysOf(picture ? { picture: [picture, [height, width, 3]] } : {}) };
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
 * @param {Record<string, [Values, number[]]>} named Each with its shape.
 */
export function arraysOf(named) {
  const arrays = Object.fromEntries(
    Object.entries(named).map(([name, [values, shape]]) => [name, { dtype: kindOf(values), shape }]),
  );
  const array = async (/** @type {string} */ name) => bytesOf(named[name][0]);
  return { arrays, array };
}

/** @param {Values} values */
function kindOf(values) {
  if (values instanceof Uint8Array) return "uint8";
  return values instanceof Float64Array ? "float64" : "float32";
}

/**
 * @param {Values} values
 * @returns {ArrayBuffer}
 */
function bytesOf(values) {
  return /** @type {ArrayBuffer} */ (
    values.buffer.slice(values.byteOffset, values.byteOffset + values.byteLength)
  );
}
