// How numbers and their signs are said.

import { format6 } from "./numbers.js";

/** The five bands from what subtracts most to what adds most. */
export const BAND_WORDS = ["subtracts strongly", "subtracts", "calm", "adds", "adds strongly"];

/** Below this, zeros behind the point are counted instead of written. */
const TINY = 1e-4;

/** @param {number | null | undefined} value */
export function exactly(value) {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : format6(value);
}

/**
 * Three digits, for legends and sentences.
 * @param {number | null | undefined} value
 * @param {number} [digits]
 */
export function briefly(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const tiny = value !== 0 && Math.abs(value) < TINY;
  const short = tiny
    ? value
        .toExponential(digits - 1)
        .replace(/\.?0*e-(\d)$/, "e-0$1")
        .replace(/\.?0*e/, "e")
    : String(Number(value.toPrecision(digits)));
  return short.replaceAll("-", "−");
}

/**
 * With its sign, as a change is said.
 * @param {number} value
 * @param {number} [digits]
 */
export function signed(value, digits = 6) {
  return (value > 0 ? "+" : "") + briefly(value, digits);
}

/** @param {number | null | undefined} probability */
export function inPercent(probability) {
  if (probability === null || probability === undefined) return "";
  const share = 100 * probability;
  return `${share >= 99.95 || share < 0.1 ? briefly(share) : share.toFixed(1)} %`;
}

/**
 * What a depth is called: "pixels", "stride 16 (blocks.10)".
 * @param {import("./types.js").Depth} depth
 */
export function depthName(depth) {
  if (depth.site === "input") return "pixels";
  const site = /^\d/.test(depth.site) ? `layer ${depth.site}` : depth.site;
  return `stride ${briefly(depth.stride)} (${site})`;
}
