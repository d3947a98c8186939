// The border of an area, along the edges of its pixels.

/**
 * A path in pixels of the picture. Edges in one line become one line.
 * @param {Uint8Array} mask
 * @param {number} height
 * @param {number} width
 */
export function outlineOf(mask, height, width) {
  const path = new Path2D();
  for (let row = 0; row <= height; row += 1) {
    const above = (row - 1) * width;
    const below = row * width;
    addRuns(
      width,
      (column) =>
        (row > 0 ? mask[above + column] : 0) !== (row < height ? mask[below + column] : 0),
      (from, to) => {
        path.moveTo(from, row);
        path.lineTo(to, row);
      },
    );
  }
  for (let column = 0; column <= width; column += 1) {
    addRuns(
      height,
      (row) =>
        (column > 0 ? mask[row * width + column - 1] : 0) !==
        (column < width ? mask[row * width + column] : 0),
      (from, to) => {
        path.moveTo(column, from);
        path.lineTo(column, to);
      },
    );
  }
  return path;
}

/**
 * @param {number} length
 * @param {(at: number) => boolean} holds
 * @param {(from: number, to: number) => void} add
 */
function addRuns(length, holds, add) {
  let start = -1;
  for (let at = 0; at <= length; at += 1) {
    const here = at < length && holds(at);
    if (here && start < 0) start = at;
    if (!here && start >= 0) {
      add(start, at);
      start = -1;
    }
  }
}

/**
 * The smallest box around an area: top, left, height, width; null where it is empty.
 * @param {Uint8Array} mask
 * @param {number} height
 * @param {number} width
 * @returns {[number, number, number, number] | null}
 */
export function boxOf(mask, height, width) {
  let [top, bottom, left, right] = [height, -1, width, -1];
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      if (!mask[row * width + column]) continue;
      if (row < top) top = row;
      bottom = row;
      if (column < left) left = column;
      if (column > right) right = column;
    }
  }
  return bottom < 0 ? null : [top, left, bottom - top + 1, right - left + 1];
}
