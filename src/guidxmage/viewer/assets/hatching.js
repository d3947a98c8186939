// Strokes over what subtracts, for eyes and prints to which the colours say too little.
// They are drawn in pixels of the screen, so that they stay fine at every zoom.

import { bandOf } from "./numbers.js";
import { blankCanvas, penOf, Pyramid } from "./pyramid.js";

const STROKE_GAP = 7;
const FAINT = 130;

/**
 * Mark where values subtract: strongly in full, less so fainter.
 * @param {import("./painter.js").Signed} signed
 * @param {number} small
 * @param {number} large
 * @param {Pyramid} marks
 */
export function markNegative(signed, small, large, marks) {
  const { width, height } = marks.full;
  const picture = new ImageData(width, height);
  const out = picture.data;
  for (let at = 0; at < signed.values.length; at += 1) {
    const band = bandOf(signed.values[at], signed.scale, small, large);
    if (band < 2) out[4 * at + 3] = band === 0 ? 255 : FAINT;
  }
  penOf(marks.full).putImageData(picture, 0, 0);
  marks.update();
}

/**
 * The strokes as a pattern to fill with.
 * @param {CanvasRenderingContext2D} pen
 * @param {number} [density] device pixels for each pixel of the screen
 */
export function strokesFor(pen, density = 1) {
  const side = Math.max(4, Math.round(STROKE_GAP * density));
  const tile = blankCanvas(side, side);
  const tilePen = penOf(tile);
  tilePen.strokeStyle = "rgba(8, 22, 58, 0.85)";
  tilePen.lineWidth = Math.max(1, density);
  tilePen.beginPath();
  for (const shift of [-side, 0, side]) {
    tilePen.moveTo(shift - 1, side + 1);
    tilePen.lineTo(shift + side + 1, -1);
  }
  tilePen.stroke();
  return pen.createPattern(tile, "repeat") ?? "transparent";
}
