// Smaller copies of large maps: enough to find a scale, at a fraction of the work.

/**
 * Averages over squares of step × step pixels; those at the border may be smaller.
 * @param {import("./types.js").Numbers} values
 * @param {number} height
 * @param {number} width
 * @param {number} step
 */
export function reduced(values, height, width, step) {
  const rows = Math.ceil(height / step);
  const columns = Math.ceil(width / step);
  const out = new Float64Array(rows * columns);
  for (let row = 0; row < height; row += 1) {
    const to = Math.floor(row / step) * columns;
    for (let column = 0; column < width; column += 1) {
      out[to + Math.floor(column / step)] += values[row * width + column];
    }
  }
  for (let row = 0; row < rows; row += 1) {
    const tall = Math.min(step, height - row * step);
    for (let column = 0; column < columns; column += 1) {
      out[row * columns + column] /= tall * Math.min(step, width - column * step);
    }
  }
  return { values: out, height: rows, width: columns };
}

/** @param {import("./types.js").Numbers} values */
export function largestOf(values) {
  let largest = 0;
  for (let at = 0; at < values.length; at += 1) {
    const magnitude = Math.abs(values[at]);
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}
