// The sums of every area, of the rest and of what has no place: together they are the score.

import { sumOver } from "./numbers.js";
import { widthsOf } from "./state.js";

/**
 * @typedef {object} AreaRow
 * @property {string} name
 * @property {"area" | "rest" | "unplaced" | "total"} kind
 * @property {number | null} pixels
 * @property {number | null} sum
 * @property {number | null} placed
 * @property {number | null} whole
 * @property {number | null} positive
 * @property {number | null} negative
 *
 * @typedef {object} AreaTable
 * @property {AreaRow[]} rows
 * @property {number} score
 * @property {number} difference score less the total: what rounding leaves
 * @property {number | null} bound
 */

/** Names that rows of the table have themselves. */
export const RESERVED = ["rest", "no place", "total"];

/**
 * @param {import("./bench.js").Bench} bench
 * @param {() => boolean} current whether the table is still wanted
 * @returns {Promise<AreaTable | null>}
 */
export async function areaTable(bench, current) {
  const { state, subject } = bench;
  const { depth } = state;
  const { entry } = subject;
  const { whole: sigma } = widthsOf(state, bench.manifest);
  const deep = Boolean(entry.depths[depth]);
  const [{ pixels }, placed, whole] = await Promise.all([
    subject.numbers(),
    deep ? subject.map("placed", depth) : null,
    deep ? subject.smooth("whole", depth, sigma) : null,
  ]);
  const maps = { pixels, placed, whole };
  const rows = [];
  for (const area of bench.areas.owned()) {
    if (!current()) return null;
    rows.push(rowOf(area.name, "area", area.mask, maps));
    await new Promise((resolve) => setTimeout(resolve)); // keys and pointers go first
  }
  if (!current()) return null;
  // Without areas the rest is everything; no mask is needed to know that.
  rows.push(rowOf("rest", "rest", rows.length ? bench.areas.rest() : null, maps));
  const at = entry.depths[depth];
  rows.push(unplacedRow(deep && at ? at.unplaced : null, entry.bias));
  const total = totalOf(rows);
  rows.push(total);
  const reached = deep ? total.whole : total.sum;
  return {
    rows,
    score: entry.score,
    difference: entry.score - (reached ?? 0),
    bound: (at ?? entry).residual_bound,
  };
}

/**
 * @param {string} name
 * @param {"area" | "rest"} kind
 * @param {Uint8Array | null} mask
 * @param {{pixels: Float64Array, placed: import("./types.js").Numbers | null,
 *   whole: Float64Array | null}} maps
 * @returns {AreaRow}
 */
function rowOf(name, kind, mask, maps) {
  const own = sumOver(maps.pixels, mask);
  return {
    name,
    kind,
    ...own,
    placed: maps.placed && sumOver(maps.placed, mask).sum,
    whole: maps.whole && sumOver(maps.whole, mask).sum,
  };
}

/**
 * With a depth, what of the bias lies nowhere; without one the whole bias does.
 * @param {number | null} unplaced
 * @param {number} bias
 * @returns {AreaRow}
 */
function unplacedRow(unplaced, bias) {
  return {
    name: "no place",
    kind: "unplaced",
    pixels: null,
    placed: null,
    positive: null,
    negative: null,
    sum: unplaced === null ? bias : null,
    whole: unplaced,
  };
}

/**
 * @param {AreaRow[]} rows
 * @returns {AreaRow}
 */
function totalOf(rows) {
  /** @param {"pixels" | "sum" | "placed" | "whole" | "positive" | "negative"} key */
  const add = (key) => {
    const values = rows.map((row) => row[key]).filter((value) => value !== null);
    return values.length ? values.reduce((sum, value) => sum + value, 0) : null;
  };
  return {
    name: "total",
    kind: "total",
    pixels: add("pixels"),
    sum: add("sum"),
    placed: add("placed"),
    whole: add("whole"),
    positive: add("positive"),
    negative: add("negative"),
  };
}
