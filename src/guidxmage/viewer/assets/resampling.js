// Photos resized as Pillow does it: weights of an antialiased filter as whole numbers, rows before
// columns, and bytes in between. Some versions of Pillow do columns first, so that where both sides
// change a pixel may be one grey level off. A canvas resizes in each browser otherwise.

/** Weights are whole numbers of this part. */
const ONE = 2 ** 22;

/**
 * @typedef {{data: Uint8Array, height: number, width: number, channels: number}} Bytes (H, W, C)
 * @typedef {{support: number, weigh: (distance: number) => number}} Kernel
 * @typedef {"bilinear" | "bicubic" | "nearest"} Interpolation
 */

/** @type {Record<"bilinear" | "bicubic", Kernel>} */
const KERNELS = {
  bilinear: { support: 1, weigh: (distance) => Math.max(0, 1 - Math.abs(distance)) },
  bicubic: { support: 2, weigh: cubic },
};
/** Of the cubic curve: how steep it is where it crosses zero. */
const STEEPNESS = -0.5;

/** @param {number} distance */
function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return ((STEEPNESS + 2) * x - (STEEPNESS + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * STEEPNESS;
  return 0;
}

/**
 * For each new place along a side: the first old one that counts, and the weights from there on.
 * @param {number} size
 * @param {number} newSize
 * @param {Kernel} kernel
 */
function sharesOf(size, newSize, { support, weigh }) {
  const scale = size / newSize;
  const wide = Math.max(scale, 1);
  const reach = support * wide;
  return Array.from({ length: newSize }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(size, Math.trunc(centre + reach + 0.5));
    const own = Array.from({ length: end - first }, (_, at) =>
      weigh((at + first - centre + 0.5) * (1 / wide)),
    );
    const sum = own.reduce((total, one) => total + one, 0);
    const weights = own.map((one) => {
      const share = sum === 0 ? one : one / sum;
      return Math.trunc(share * ONE + (share < 0 ? -0.5 : 0.5));
    });
    return { first, weights };
  });
}

/**
 * Along one side.
 * @param {Bytes} bytes
 * @param {number} newSize
 * @param {Kernel} kernel
 * @param {boolean} across whether rows are made longer or shorter, or else columns
 * @returns {Bytes}
 */
function alongSide({ data, height, width, channels }, newSize, kernel, across) {
  const shares = sharesOf(across ? width : height, newSize, kernel);
  const made = across ? { height, width: newSize } : { height: newSize, width };
  const out = new Uint8Array(made.height * made.width * channels);
  const step = across ? channels : width * channels;
  const rest = across ? height : width;
  shares.forEach(({ first, weights }, place) => {
    for (let other = 0; other < rest; other += 1) {
      const from = across ? (other * width + first) * channels : (first * width + other) * channels;
      const to = across
        ? (other * newSize + place) * channels
        : (place * width + other) * channels;
      for (let channel = 0; channel < channels; channel += 1) {
        let sum = ONE / 2;
        for (let at = 0; at < weights.length; at += 1) {
          sum += data[from + at * step + channel] * weights[at];
        }
        out[to + channel] = Math.min(Math.max(Math.floor(sum / ONE), 0), 255);
      }
    }
  });
  return { data: out, ...made, channels };
}

/**
 * @param {Bytes} bytes
 * @param {number} height
 * @param {number} width
 * @returns {Bytes}
 */
function nearestOf(bytes, height, width) {
  const { channels } = bytes;
  const data = new Uint8Array(height * width * channels);
  const rows = nearestPlaces(bytes.height, height);
  const columns = nearestPlaces(bytes.width, width);
  for (let row = 0, to = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const from = (rows[row] * bytes.width + columns[column]) * channels;
      for (let channel = 0; channel < channels; channel += 1, to += 1) data[to] = bytes.data[from + channel];
    }
  }
  return { data, height, width, channels };
}

/**
 * Steps are added up, as ties fall where they then lie.
 * @param {number} size
 * @param {number} newSize
 */
function nearestPlaces(size, newSize) {
  const step = size / newSize;
  let at = step * 0.5;
  return Array.from({ length: newSize }, () => {
    const place = Math.min(Math.trunc(at), size - 1);
    at += step;
    return place;
  });
}

/**
 * A photo at another size.
 * @param {Bytes} bytes
 * @param {number} height
 * @param {number} width
 * @param {Interpolation} interpolation
 * @returns {Bytes}
 */
export function resizedAs(bytes, height, width, interpolation) {
  if (bytes.height === height && bytes.width === width) return bytes;
  if (interpolation === "nearest") return nearestOf(bytes, height, width);
  const kernel = KERNELS[interpolation];
  const wide = bytes.width === width ? bytes : alongSide(bytes, width, kernel, true);
  return wide.height === height ? wide : alongSide(wide, height, kernel, false);
}
