// A perturbation is far too small to be seen; it is amplified until its largest value is.

import { largestOf } from "./reducing.js";

/** The grey of what is not changed, and how far from it the largest change lies. */
const UNCHANGED = 128;
const REACH = 127;

/**
 * By how much a perturbation is amplified when it is drawn, in parts of the full range.
 * @param {import("./types.js").Numbers} delta
 */
export function amplification(delta) {
  const largest = largestOf(delta);
  return largest > 0 ? 0.5 / largest : 1;
}

/**
 * @param {import("./types.js").Numbers} delta (C, H, W)
 * @param {number} channels
 * @param {Uint8ClampedArray} out RGBA
 */
export function paintPerturbation(delta, channels, out) {
  const pixels = delta.length / channels;
  const factor = 2 * REACH * amplification(delta);
  for (let at = 0; at < pixels; at += 1) {
    for (let color = 0; color < 3; color += 1) {
      const channel = channels === 3 ? color : 0;
      out[4 * at + color] = UNCHANGED + factor * delta[channel * pixels + at];
    }
    out[4 * at + 3] = 255;
  }
}
