// What an area is filled with, as Python's `erase` fills it: in the explained space.

import { reflecting } from "./smoothing.js";

/** The blur in shorter sides of the picture: little of an object is left to be seen. */
const BLURRED_SHARE = 1 / 16;
/** How colours weigh in a grey picture. */
const GREY_SHARES = [0.299, 0.587, 0.114];

/**
 * @typedef {import("./types.js").EraseQuestion} EraseQuestion
 * @typedef {import("./graph.js").GraphAbout} GraphAbout
 */

/**
 * An image to take pixels from, of the shape of X, and its words.
 * @param {EraseQuestion} question
 * @param {import("./types.js").TypedArray} X (C, H, W)
 * @param {GraphAbout} about
 * @param {AbortSignal} signal
 * @returns {Promise<{values: Float32Array, words: string}>}
 */
export async function fillingOf(question, X, about, signal) {
  const { space, preprocessing: known } = about;
  const normalised = space === "input";
  switch (question.fill) {
    case "blur":
      return blurOf(X, about.shape, signal);
    case "photo":
      return { values: photoOf(question.photo, about), words: "other pixels" };
    case "black":
      if (normalised && !known) {
        throw new Error("Which input black pixels become is not known; choose another filling.");
      }
      return {
        values: coloured(about.shape, (at) => (normalised && known ? -known.mean[at] / known.std[at] : 0)),
        words: "black",
      };
    default:
      return {
        values: coloured(about.shape, (at) => (normalised || !known ? 0 : known.mean[at])),
        words: "the network's zero",
      };
  }
}

/**
 * @param {[number, number, number]} shape
 * @param {(channel: number) => number} valueOf
 */
function coloured([channels, height, width], valueOf) {
  const pixels = height * width;
  const values = new Float32Array(channels * pixels);
  for (let channel = 0; channel < channels; channel += 1) {
    values.fill(valueOf(channel), channel * pixels, (channel + 1) * pixels);
  }
  return values;
}

/**
 * @param {import("./types.js").TypedArray} X
 * @param {[number, number, number]} shape
 * @param {AbortSignal} signal
 */
async function blurOf(X, [channels, height, width], signal) {
  const sigma = Math.max(1, Math.min(height, width) * BLURRED_SHARE);
  const pixels = height * width;
  const values = new Float32Array(X.length);
  for (let channel = 0; channel < channels; channel += 1) {
    const plane = X.subarray(channel * pixels, (channel + 1) * pixels);
    values.set(await reflecting(plane, height, width, sigma, signal), channel * pixels);
  }
  return { values, words: `the picture's blur (σ = ${Number(sigma.toPrecision(4))} pixels)` };
}

/**
 * @param {import("./types.js").PhotoFill | undefined} photo
 * @param {GraphAbout} about
 */
function photoOf(photo, { space, shape, preprocessing: known }) {
  const [channels, height, width] = shape;
  if (!photo || !known || (channels !== 1 && channels !== 3)) {
    throw new Error("How a photo becomes this network's input is not known.");
  }
  const [top, left, tall, wide] = photo.box;
  const bytes = atob(photo.rgb);
  const values = new Float32Array(channels * height * width);
  /** @type {(pixel: number, channel: number) => number} */
  const colour = (pixel, channel) => bytes.charCodeAt(3 * pixel + channel) / 255;
  for (let channel = 0; channel < channels; channel += 1) {
    for (let pixel = 0; pixel < tall * wide; pixel += 1) {
      const own =
        channels === 3
          ? colour(pixel, channel)
          : GREY_SHARES.reduce((sum, share, at) => sum + share * colour(pixel, at), 0);
      const row = top + Math.floor(pixel / wide);
      values[(channel * height + row) * width + left + (pixel % wide)] =
        space === "input" ? (own - known.mean[channel]) / known.std[channel] : own;
    }
  }
  return values;
}
