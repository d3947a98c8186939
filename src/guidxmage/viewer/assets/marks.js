// What is drawn over the layers: the grid between pixels and their values, outlines, a shape in
// the making, the cursor.

import { briefly } from "./words.js";

/** From this zoom on the pixels are set apart by lines. */
const GRID_FROM = 10;
/** From this zoom on a pixel has room for its value. */
const VALUES_FROM = 60;
const DARK = "rgba(10, 14, 20, 0.9)";
const LIGHT = "rgba(255, 255, 255, 0.95)";

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {import("./stage.js").Stage} stage
 */
export function drawMarks(pen, stage) {
  const { viewport } = stage.bench;
  const { density } = stage;
  const [left, top] = viewport.corner();
  if (viewport.scale >= GRID_FROM) drawGrid(pen, stage, left, top);
  if (viewport.scale >= VALUES_FROM && stage.printed) drawValues(pen, stage, stage.printed);
  const scale = viewport.scale * density;
  pen.setTransform(scale, 0, 0, scale, left * density, top * density);
  if (stage.outline) strokeTwice(pen, stage.outline, 1 / viewport.scale, []);
  const shape = stage.drawing?.path();
  if (shape) strokeTwice(pen, shape, 1 / viewport.scale, [5, 4]);
  pen.setTransform(density, 0, 0, density, 0, 0);
  drawCursor(pen, stage, left, top);
}

/**
 * A light line upon a dark one is seen on every ground.
 * @param {CanvasRenderingContext2D} pen
 * @param {Path2D} path
 * @param {number} unit a pixel of the screen
 * @param {number[]} dashes
 */
function strokeTwice(pen, path, unit, dashes) {
  pen.lineJoin = "round";
  pen.setLineDash([]);
  pen.strokeStyle = DARK;
  pen.lineWidth = 3.5 * unit;
  pen.stroke(path);
  pen.setLineDash(dashes.map((dash) => dash * unit));
  pen.strokeStyle = LIGHT;
  pen.lineWidth = 1.5 * unit;
  pen.stroke(path);
  pen.setLineDash([]);
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {import("./stage.js").Stage} stage
 * @param {number} left
 * @param {number} top
 */
function drawGrid(pen, stage, left, top) {
  const { viewport } = stage.bench;
  const { scale } = viewport;
  pen.setTransform(stage.density, 0, 0, stage.density, 0, 0);
  pen.strokeStyle = "rgba(90, 96, 106, 0.45)";
  pen.lineWidth = 1 / stage.density;
  pen.beginPath();
  const right = Math.min(viewport.across, left + viewport.width * scale);
  const bottom = Math.min(viewport.down, top + viewport.height * scale);
  for (let column = Math.max(0, Math.ceil(-left / scale)); column <= viewport.width; column += 1) {
    const x = left + column * scale;
    if (x > viewport.across) break;
    pen.moveTo(x, Math.max(0, top));
    pen.lineTo(x, bottom);
  }
  for (let row = Math.max(0, Math.ceil(-top / scale)); row <= viewport.height; row += 1) {
    const y = top + row * scale;
    if (y > viewport.down) break;
    pen.moveTo(Math.max(0, left), y);
    pen.lineTo(right, y);
  }
  pen.stroke();
}

/**
 * The contribution of each pixel inside it.
 * @param {CanvasRenderingContext2D} pen
 * @param {import("./stage.js").Stage} stage
 * @param {import("./types.js").Numbers} values
 */
function drawValues(pen, stage, values) {
  const { viewport } = stage.bench;
  const [left, top] = viewport.corner();
  const { scale, width, height } = viewport;
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineWidth = 3;
  pen.strokeStyle = LIGHT;
  pen.fillStyle = DARK;
  const [firstX, firstY] = [left, top].map((at) => Math.max(0, Math.floor(-at / scale)));
  for (let row = firstY; row < height && top + row * scale < viewport.down; row += 1) {
    for (
      let column = firstX;
      column < width && left + column * scale < viewport.across;
      column += 1
    ) {
      const words = briefly(values[row * width + column], 2);
      const [x, y] = [left + (column + 0.5) * scale, top + (row + 0.5) * scale];
      pen.strokeText(words, x, y, scale - 4);
      pen.fillText(words, x, y, scale - 4);
    }
  }
}

/**
 * A frame around the pixel, and four ticks that lead the eye to it where it is small.
 * @param {CanvasRenderingContext2D} pen
 * @param {import("./stage.js").Stage} stage
 * @param {number} left
 * @param {number} top
 */
function drawCursor(pen, stage, left, top) {
  const { state, viewport } = stage.bench;
  const { scale } = viewport;
  const [x, y] = [left + state.column * scale, top + state.row * scale];
  const path = new Path2D();
  path.rect(x - 0.5, y - 0.5, scale + 1, scale + 1);
  const [near, far] = [3, 9];
  const [middleX, middleY] = [x + scale / 2, y + scale / 2];
  path.moveTo(middleX, y - near);
  path.lineTo(middleX, y - far);
  path.moveTo(middleX, y + scale + near);
  path.lineTo(middleX, y + scale + far);
  path.moveTo(x - near, middleY);
  path.lineTo(x - far, middleY);
  path.moveTo(x + scale + near, middleY);
  path.lineTo(x + scale + far, middleY);
  strokeTwice(pen, path, 0.8, []);
}
