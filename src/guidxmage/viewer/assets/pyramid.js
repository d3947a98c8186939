// A picture at full size and at halves of it. Drawing from the nearest larger one keeps panning
// quick for photos of millions of pixels, and free of the shimmer that skipped pixels give.

/** Below this side no further half is made. */
const SMALLEST_SIDE = 256;

/**
 * @param {number} width
 * @param {number} height
 */
export function blankCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @returns {CanvasRenderingContext2D}
 */
export function penOf(canvas) {
  const pen = canvas.getContext("2d");
  if (!pen) throw new Error("This browser gives no canvas to draw on.");
  return pen;
}

/** A canvas and its halves. */
export class Pyramid {
  /**
   * @param {number} width
   * @param {number} height
   */
  constructor(width, height) {
    this.levels = [blankCanvas(width, height)];
    let [across, down] = [width, height];
    while (Math.max(across, down) > 2 * SMALLEST_SIDE) {
      across = Math.max(1, Math.round(across / 2));
      down = Math.max(1, Math.round(down / 2));
      this.levels.push(blankCanvas(across, down));
    }
  }

  get full() {
    return this.levels[0];
  }

  /** Draw the halves anew after the full canvas has changed. */
  update() {
    for (let at = 1; at < this.levels.length; at += 1) {
      const [from, to] = [this.levels[at - 1], this.levels[at]];
      const pen = penOf(to);
      pen.clearRect(0, 0, to.width, to.height);
      pen.drawImage(from, 0, 0, to.width, to.height);
    }
  }

  /**
   * The smallest level that still has a pixel for every pixel of the screen.
   * @param {number} scale screen pixels for each pixel of the picture
   */
  levelFor(scale) {
    let at = 0;
    while (at + 1 < this.levels.length && scale * 2 ** (at + 1) <= 1) at += 1;
    return this.levels[at];
  }
}
