// Gaussians over maps: the same as Python's up to rounding, quick at any width, in small slices.

/** @typedef {import("./types.js").Numbers} Numbers */

const TRUNCATED = 4;
/** A Gaussian of more sides than this gives the mean. */
const EVEN_SIDES = 4;
/** From this reach on, in pixels, sums of cosines are faster than sums of pixels. */
const WIDE_REACH = 72;
/** Half the period of the cosines, in sigmas, and how many there are: 14 digits of a Gaussian. */
const PERIOD_SIGMAS = 6;
const WAVES = 16;
const SLICE_MS = 12;
const TILE = 32;

/**
 * A map through a Gaussian that reflects at the border, which keeps its sum.
 * @param {Numbers} values (h, w)
 * @param {number} h
 * @param {number} w
 * @param {number} sigma In pixels.
 * @param {AbortSignal} [signal]
 * @returns {Promise<Float64Array>}
 */
export async function reflecting(values, h, w, sigma, signal) {
  const own = Float64Array.from(values);
  if (sigma === 0) {
    return own;
  }
  const reach = Math.floor(TRUNCATED * sigma + 0.5);
  const turn = new Turns(signal);
  await alongRows(own, h, w, reflectingLine(w, sigma, reach), turn);
  return alongColumns(own, h, w, reflectingLine(h, sigma, reach), turn);
}

/**
 * A map spread by a Gaussian inside the picture: every pixel hands on its whole value.
 * @param {Numbers} values (h, w)
 * @param {number} h
 * @param {number} w
 * @param {number} sigma In pixels.
 * @param {AbortSignal} [signal]
 * @returns {Promise<Float64Array>}
 */
export async function spread(values, h, w, sigma, signal) {
  const own = Float64Array.from(values);
  const reach = Math.min(roundedToEven(4 * sigma), Math.max(h, w) - 1);
  if (reach === 0) {
    return own;
  }
  const [rows, columns] = [boundedLine(w, sigma, reach), boundedLine(h, sigma, reach)];
  const [keptRows, keptColumns] = [keptOf(rows, w), keptOf(columns, h)];
  for (let row = 0; row < h; row += 1) {
    for (let column = 0; column < w; column += 1) {
      own[row * w + column] /= keptColumns[row] * keptRows[column];
    }
  }
  const turn = new Turns(signal);
  await alongRows(own, h, w, rows, turn);
  return alongColumns(own, h, w, columns, turn);
}

/**
 * What a Gaussian leaves of a line of ones.
 * @param {Line} line
 * @param {number} size
 */
function keptOf(line, size) {
  const ones = new Float64Array(size).fill(1);
  line.smooth(ones, 0);
  return ones;
}

/** @param {number} value */
function roundedToEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/** Lets the page breathe between slices of work, and ends the work when nobody waits for it. */
class Turns {
  /** @param {AbortSignal} [signal] */
  constructor(signal) {
    this.signal = signal;
    this.since = performance.now();
  }

  due() {
    return performance.now() - this.since > SLICE_MS;
  }

  async take() {
    await new Promise((resolve) => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        channel.port1.close();
        resolve(null);
      };
      channel.port2.postMessage(null);
    });
    this.signal?.throwIfAborted();
    this.since = performance.now();
  }
}

/**
 * Smooth every row in its place.
 * @param {Float64Array} values
 * @param {number} h
 * @param {number} w
 * @param {Line} line
 * @param {Turns} turn
 */
async function alongRows(values, h, w, line, turn) {
  for (let row = 0; row < h; row += 1) {
    line.smooth(values, row * w);
    if (turn.due()) await turn.take();
  }
}

/**
 * Smooth every column: as rows of the picture on its side.
 * @param {Float64Array} values
 * @param {number} h
 * @param {number} w
 * @param {Line} line
 * @param {Turns} turn
 */
async function alongColumns(values, h, w, line, turn) {
  const turned = await transposed(values, h, w, turn);
  await alongRows(turned, w, h, line, turn);
  return transposed(turned, w, h, turn);
}

/**
 * @param {Float64Array} values
 * @param {number} h
 * @param {number} w
 * @param {Turns} turn
 */
async function transposed(values, h, w, turn) {
  const turned = new Float64Array(values.length);
  for (let top = 0; top < h; top += TILE) {
    const bottom = Math.min(top + TILE, h);
    for (let column = 0; column < w; column += 1) {
      for (let row = top; row < bottom; row += 1) {
        turned[column * h + row] = values[row * w + column];
      }
    }
    if (turn.due()) await turn.take();
  }
  return turned;
}

/** @typedef {{smooth: (values: Float64Array, start: number) => void}} Line How a line is smoothed. */

/**
 * @param {number} size
 * @param {number} sigma
 * @param {number} reach
 * @returns {Line}
 */
function reflectingLine(size, sigma, reach) {
  if (sigma > EVEN_SIDES * size) {
    return { smooth: (values, start) => evenOut(values.subarray(start, start + size)) };
  }
  // A line that reflects at both ends repeats after twice its size.
  const period = 2 * size;
  return lineOf(size, sigma, reach, (place) => {
    const within = ((place % period) + period) % period;
    return within < size ? within : period - 1 - within;
  });
}

/**
 * @param {number} size
 * @param {number} sigma
 * @param {number} reach
 * @returns {Line}
 */
function boundedLine(size, sigma, reach) {
  return lineOf(size, sigma, reach, (place) => (place >= 0 && place < size ? place : size));
}

/** @param {Float64Array} line */
function evenOut(line) {
  line.fill(line.reduce((sum, value) => sum + value, 0) / line.length);
}

/**
 * @param {number} size
 * @param {number} sigma
 * @param {number} reach
 * @param {(place: number) => number} placeOf Where the value of a place beyond the line is found;
 *   at `size` there is a zero.
 * @returns {Line}
 */
function lineOf(size, sigma, reach, placeOf) {
  const weights = new Float64Array(reach + 1);
  let total = 0;
  for (let step = 0; step <= reach; step += 1) {
    weights[step] = Math.exp(-0.5 * (step / sigma) ** 2);
    total += step === 0 ? weights[step] : 2 * weights[step];
  }
  if (reach >= WIDE_REACH) {
    return new WideLine(size, sigma, reach, total, placeOf);
  }
  return new NarrowLine(size, weights.map((weight) => weight / total), placeOf);
}

/** A short Gaussian: the sum of the neighbours themselves. */
class NarrowLine {
  /**
   * @param {number} size
   * @param {Float64Array} weights For each distance.
   * @param {(place: number) => number} placeOf
   */
  constructor(size, weights, placeOf) {
    this.size = size;
    this.weights = weights;
    this.reach = weights.length - 1;
    this.places = Int32Array.from({ length: size + 2 * this.reach }, (_, i) => placeOf(i - this.reach));
    this.held = new Float64Array(size + 2 * this.reach);
  }

  /**
   * @param {Float64Array} values
   * @param {number} start
   */
  smooth(values, start) {
    const { size, weights, reach, places, held } = this;
    for (let i = 0; i < held.length; i += 1) {
      held[i] = places[i] < size ? values[start + places[i]] : 0;
    }
    for (let i = 0; i < size; i += 1) {
      const middle = i + reach;
      let sum = weights[0] * held[middle];
      for (let step = 1; step <= reach; step += 1) {
        sum += weights[step] * (held[middle - step] + held[middle + step]);
      }
      values[start + i] = sum;
    }
  }
}

/**
 * A wide Gaussian as a sum of cosines. A window over one wave slides from pixel to pixel: what
 * leaves it is taken off, what enters is added, the rest is turned. So its width costs nothing.
 */
class WideLine {
  /**
   * @param {number} size
   * @param {number} sigma
   * @param {number} reach
   * @param {number} total Of the Gaussian's weights.
   * @param {(place: number) => number} placeOf
   */
  constructor(size, sigma, reach, total, placeOf) {
    this.size = size;
    this.waves = wavesOf(sigma, reach, total);
    this.first = this.waves.map((wave) => firstWindow(size, reach, wave.step, placeOf));
    this.leaving = Int32Array.from({ length: size }, (_, i) => placeOf(i - reach));
    this.entering = Int32Array.from({ length: size }, (_, i) => placeOf(i + reach + 1));
    this.line = new Float64Array(size + 1); // the last stays 0
    this.enters = new Float64Array(size);
    this.leaves = new Float64Array(size);
    this.out = new Float64Array(size);
  }

  /**
   * @param {Float64Array} values
   * @param {number} start
   */
  smooth(values, start) {
    const { size, line, out } = this;
    line.set(values.subarray(start, start + size));
    for (let i = 0; i < size; i += 1) {
      this.enters[i] = line[this.entering[i]];
      this.leaves[i] = line[this.leaving[i]];
    }
    out.fill(0);
    this.waves.forEach((wave, i) => {
      slide(line, this.first[i], wave, this.enters, this.leaves, out);
    });
    values.set(out, start);
  }
}

/** @typedef {{step: number, amount: number, reach: number}} Wave */

/**
 * The waves of a Gaussian that repeats after twice PERIOD_SIGMAS, and their amounts.
 * @param {number} sigma
 * @param {number} reach
 * @param {number} total
 * @returns {Wave[]}
 */
function wavesOf(sigma, reach, total) {
  const half = PERIOD_SIGMAS * sigma;
  const mean = (sigma * Math.sqrt(2 * Math.PI)) / (2 * half) / total;
  return Array.from({ length: WAVES }, (_, number) => {
    const step = (Math.PI * number) / half;
    const amount = number === 0 ? mean : 2 * mean * Math.exp(-0.5 * (step * sigma) ** 2);
    return { step, amount, reach };
  });
}

/**
 * How much each value of a line adds to the window around its first pixel.
 * @param {number} size
 * @param {number} reach
 * @param {number} step
 * @param {(place: number) => number} placeOf
 */
function firstWindow(size, reach, step, placeOf) {
  const [real, imaginary] = [new Float64Array(size + 1), new Float64Array(size + 1)];
  for (let i = -reach; i <= reach; i += 1) {
    const place = placeOf(i);
    real[place] += Math.cos(step * i);
    imaginary[place] += Math.sin(step * i);
  }
  return { real, imaginary };
}

/**
 * Slide a window over one wave along a line, and add what it shows.
 * @param {Float64Array} line
 * @param {{real: Float64Array, imaginary: Float64Array}} first
 * @param {Wave} wave
 * @param {Float64Array} entering
 * @param {Float64Array} leaving
 * @param {Float64Array} out
 */
function slide(line, first, wave, entering, leaving, out) {
  const { step, amount, reach } = wave;
  let [real, imaginary] = [0, 0];
  for (let i = 0; i < out.length; i += 1) {
    real += line[i] * first.real[i];
    imaginary += line[i] * first.imaginary[i];
  }
  const [turnReal, turnImaginary] = [Math.cos(step), -Math.sin(step)];
  const [outReal, outImaginary] = [Math.cos(step * reach), -Math.sin(step * reach)];
  const [inReal, inImaginary] = [Math.cos(step * (reach + 1)), Math.sin(step * (reach + 1))];
  for (let i = 0; i < out.length; i += 1) {
    out[i] += amount * real;
    const [enters, leaves] = [entering[i], leaving[i]];
    const nextReal = real + enters * inReal - leaves * outReal;
    const nextImaginary = imaginary + enters * inImaginary - leaves * outImaginary;
    real = nextReal * turnReal - nextImaginary * turnImaginary;
    imaginary = nextReal * turnImaginary + nextImaginary * turnReal;
  }
}
