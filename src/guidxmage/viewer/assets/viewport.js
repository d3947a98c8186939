// Which part of the picture is seen, and how large: all lengths of the screen are CSS pixels.

/** So many screen pixels a pixel of the picture may be wide, unless fitting makes it wider. */
const LARGEST_ZOOM = 96;

/** The place of a picture on the stage. */
export class Viewport {
  /**
   * @param {number} height of the picture
   * @param {number} width
   */
  constructor(height, width) {
    this.height = height;
    this.width = width;
    /** The size of the stage. */
    this.across = 1;
    this.down = 1;
    /** Screen pixels for each pixel of the picture, and the picture's point in the middle. */
    this.scale = 1;
    this.x = width / 2;
    this.y = height / 2;
    this.fitted = true;
  }

  /** The zoom at which the whole picture is just seen. */
  get fitting() {
    return Math.min(this.across / this.width, this.down / this.height);
  }

  get largest() {
    return Math.max(LARGEST_ZOOM, 4 * this.fitting);
  }

  fit() {
    this.scale = this.fitting;
    this.x = this.width / 2;
    this.y = this.height / 2;
    this.fitted = true;
  }

  /**
   * The stage got another size.
   * @param {number} across
   * @param {number} down
   */
  resize(across, down) {
    const zoom = this.scale / this.fitting;
    this.across = Math.max(1, across);
    this.down = Math.max(1, down);
    if (this.fitted) this.fit();
    else this.restore({ zoom, x: this.x / this.width, y: this.y / this.height });
  }

  /**
   * Zoom by a factor; a point of the stage stays where it is.
   * @param {number} factor
   * @param {number} [left]
   * @param {number} [top]
   */
  zoom(factor, left = this.across / 2, top = this.down / 2) {
    const [x, y] = this.toPicture(left, top);
    const scale = Math.min(this.largest, Math.max(this.fitting, this.scale * factor));
    this.x = x - (left - this.across / 2) / scale;
    this.y = y - (top - this.down / 2) / scale;
    this.scale = scale;
    this.fitted = scale <= this.fitting * 1.0001;
    this.clamp();
  }

  /**
   * @param {number} left how far the picture is dragged, in screen pixels
   * @param {number} top
   */
  pan(left, top) {
    this.x -= left / this.scale;
    this.y -= top / this.scale;
    this.clamp();
  }

  /**
   * Move as little as needed for a pixel to be seen.
   * @param {number} row
   * @param {number} column
   */
  reveal(row, column) {
    const margin = 24 / this.scale + 1;
    const half = [this.across / 2 / this.scale, this.down / 2 / this.scale];
    const room = [Math.max(0, half[0] - margin), Math.max(0, half[1] - margin)];
    this.x = Math.min(column + 0.5 + room[0], Math.max(column + 0.5 - room[0], this.x));
    this.y = Math.min(row + 0.5 + room[1], Math.max(row + 0.5 - room[1], this.y));
    this.clamp();
  }

  /** No side of the picture leaves the stage's edge while the other is out of sight. */
  clamp() {
    const [halfAcross, halfDown] = [this.across / 2 / this.scale, this.down / 2 / this.scale];
    this.x = within(this.x, halfAcross, this.width - halfAcross);
    this.y = within(this.y, halfDown, this.height - halfDown);
  }

  /**
   * @param {number} left
   * @param {number} top
   * @returns {[number, number]} x and y in the picture, in its pixels
   */
  toPicture(left, top) {
    return [
      this.x + (left - this.across / 2) / this.scale,
      this.y + (top - this.down / 2) / this.scale,
    ];
  }

  /** Where the picture's corner is on the stage. */
  corner() {
    return [this.across / 2 - this.x * this.scale, this.down / 2 - this.y * this.scale];
  }

  /** The place as plain numbers that do not depend on the stage's size. */
  place() {
    return this.fitted
      ? null
      : { zoom: this.scale / this.fitting, x: this.x / this.width, y: this.y / this.height };
  }

  /** @param {{zoom: number, x: number, y: number}} place */
  restore(place) {
    this.scale = Math.min(this.largest, Math.max(1, place.zoom) * this.fitting);
    this.x = place.x * this.width;
    this.y = place.y * this.height;
    this.fitted = false;
    this.clamp();
  }
}

/**
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
function within(value, low, high) {
  return low > high ? (low + high) / 2 : Math.min(high, Math.max(low, value));
}
