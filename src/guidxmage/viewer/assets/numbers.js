// The numbers of an explanation, computed as Python computes them and printed as Python prints them.

/** @typedef {import("./types.js").Numbers} Numbers */
/** @typedef {import("./types.js").TypedArray} TypedArray */

const PERCENTILE_SHARE = 0.995;
const PRINTED_DIGITS = 6;

/**
 * What each pixel contributes: an array (C, n) summed over its channels, in order, in float64.
 * @param {Numbers} values
 * @param {number} channels
 * @param {number} pixels
 */
export function pixelValues(values, channels, pixels) {
  const sums = new Float64Array(pixels);
  for (let start = 0; start < channels * pixels; start += pixels) {
    for (let pixel = 0; pixel < pixels; pixel += 1) {
      sums[pixel] += values[start + pixel];
    }
  }
  return sums;
}

/**
 * Contributions Δ·(X − R) in the arithmetic of the arrays themselves, so that every bit agrees.
 * @param {TypedArray} weights
 * @param {TypedArray} input
 * @param {TypedArray | null} reference Null where it is zero.
 * @returns {Float32Array | Float64Array}
 */
export function contributionsOf(weights, input, reference) {
  const size = weights.length;
  if (weights instanceof Float64Array) {
    const products = new Float64Array(size);
    for (let i = 0; i < size; i += 1) {
      products[i] = weights[i] * (reference === null ? input[i] : input[i] - reference[i]);
    }
    return products;
  }
  const products = new Float32Array(size); // which rounds what it is given
  for (let i = 0; i < size; i += 1) {
    const step = reference === null ? input[i] : Math.fround(input[i] - reference[i]);
    products[i] = weights[i] * Math.fround(step);
  }
  return products;
}

/**
 * The scale of a map: the 99.5th percentile of its non-zero magnitudes, as NumPy interpolates it.
 * @param {Numbers} values
 */
export function percentileScale(values) {
  const all = new Float64Array(values.length);
  let count = 0;
  for (let i = 0; i < values.length; i += 1) {
    if (values[i] !== 0) {
      all[count] = Math.abs(values[i]);
      count += 1;
    }
  }
  if (count === 0) {
    return 0;
  }
  const magnitudes = all.subarray(0, count);
  const place = (count - 1) * PERCENTILE_SHARE;
  const below = Math.min(Math.floor(place), count - 1);
  const low = atRank(magnitudes, below);
  let high = below + 1 < count ? Infinity : low;
  for (let i = below + 1; i < count; i += 1) {
    high = Math.min(high, magnitudes[i]); // all that follow are at least as large
  }
  const part = place - below;
  return part >= 0.5 ? high - (high - low) * (1 - part) : low + (high - low) * part;
}

/**
 * The value that would stand at a place were all sorted; smaller ones end up before it.
 * @param {Float64Array} values Reordered.
 * @param {number} place
 */
export function atRank(values, place) {
  let low = 0;
  let high = values.length - 1;
  let chance = 1;
  while (low < high) {
    // A pivot by chance: no order of pixels makes this slow.
    chance = (chance * 16807) % 2147483647;
    const pivot = values[low + (chance % (high - low + 1))];
    let left = low;
    let right = high;
    while (left <= right) {
      while (values[left] < pivot) left += 1;
      while (values[right] > pivot) right -= 1;
      if (left <= right) {
        const held = values[left];
        values[left] = values[right];
        values[right] = held;
        left += 1;
        right -= 1;
      }
    }
    if (place <= right) high = right;
    else if (place >= left) low = left;
    else break;
  }
  return values[place];
}

/**
 * The band of a value, from 0, subtracts most, to 4, adds most; a threshold itself is still calm.
 * @param {number} value
 * @param {number} scale
 * @param {number} small The share of the scale up to which a value is calm.
 * @param {number} large The share from which on it is strong.
 */
export function bandOf(value, scale, small, large) {
  const magnitude = Math.abs(value);
  const band = Number(magnitude > small * scale) + Number(magnitude > large * scale);
  return value < 0 ? 2 - band : 2 + band;
}

/**
 * A number with six significant digits, as Python's format(value, ".6g") with a real minus sign.
 * @param {number} value
 */
export function format6(value) {
  if (Number.isNaN(value)) {
    return "nan";
  }
  const sign = value < 0 || Object.is(value, -0) ? "−" : "";
  if (value === 0 || !Number.isFinite(value)) {
    return sign + (value === 0 ? "0" : "inf");
  }
  const [digits, exponent] = roundedDigits(Math.abs(value));
  if (exponent < -4 || exponent >= PRINTED_DIGITS) {
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${sign}${withPoint(digits, 1)}e${exponent < 0 ? "−" : "+"}${size}`;
  }
  const padded = exponent < 0 ? "0".repeat(-exponent) + digits : digits;
  return sign + withPoint(padded, Math.max(exponent, 0) + 1);
}

/**
 * Six digits and the exponent of the first; half a unit goes to the even digit, as in Python.
 * @param {number} value Positive and finite.
 * @returns {[string, number]}
 */
function roundedDigits(value) {
  const [mantissa, exponent] = value.toExponential(PRINTED_DIGITS - 1).split("e");
  const digits = mantissa.replace(".", "");
  // JavaScript rounds an exact half up. It then shows as a 5 with nothing behind it.
  const all = value.toExponential(100).split("e")[0].replace(".", "");
  const even = Number(all[PRINTED_DIGITS - 1]) % 2 === 0;
  if (even && /^50*$/.test(all.slice(PRINTED_DIGITS))) {
    return [all.slice(0, PRINTED_DIGITS), Number(exponent)];
  }
  return [digits, Number(exponent)];
}

/**
 * Digits with a point behind so many of them, without zeros at the end.
 * @param {string} digits
 * @param {number} whole
 */
function withPoint(digits, whole) {
  const behind = digits.slice(whole).replace(/0+$/, "");
  return digits.slice(0, whole) + (behind === "" ? "" : `.${behind}`);
}

/** A sum of many numbers that keeps what each addition rounds away. */
class LongSum {
  constructor() {
    this.sum = 0;
    this.lost = 0;
  }

  /** @param {number} value */
  add(value) {
    const sum = this.sum + value;
    const larger = Math.abs(this.sum) >= Math.abs(value);
    this.lost += larger ? this.sum - sum + value : value - sum + this.sum;
    this.sum = sum;
  }

  total() {
    const total = this.sum + this.lost;
    return Number.isNaN(total) ? this.sum : total;
  }
}

/**
 * The sums of a map over a mask; without one, over all of it.
 * @param {Numbers} values
 * @param {Uint8Array | null} mask
 * @returns {{pixels: number, sum: number, positive: number, negative: number}}
 */
export function sumOver(values, mask) {
  const [all, above, below] = [new LongSum(), new LongSum(), new LongSum()];
  let pixels = 0;
  for (let i = 0; i < values.length; i += 1) {
    if (mask === null || mask[i] !== 0) {
      pixels += 1;
      all.add(values[i]);
      (values[i] > 0 ? above : below).add(values[i]);
    }
  }
  return { pixels, sum: all.total(), positive: above.total(), negative: below.total() };
}
