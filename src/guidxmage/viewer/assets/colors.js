// The colours of maps, pixel by pixel those of the pictures that Python draws.

/** @typedef {import("./types.js").Numbers} Numbers */
/** @typedef {[number, number, number]} Rgb */

/**
 * @typedef {object} Palette
 * @property {string} name
 * @property {Rgb[]} bands Five colours, from what subtracts most to what adds most.
 * @property {Rgb[]} whole Seven colours in equal steps, for maps of the whole score.
 */

/** @type {Rgb[]} */
const DIVERGING = [
  [24, 82, 158],
  [67, 134, 195],
  [146, 197, 222],
  [255, 255, 255],
  [246, 178, 145],
  [214, 96, 77],
  [170, 14, 38],
];

/** @type {{paper: Palette, blind: Palette}} */
export const PALETTES = {
  paper: {
    name: "the paper's five colours",
    bands: [
      [27, 58, 178],
      [52, 206, 232],
      [142, 203, 140],
      [255, 214, 40],
      [206, 24, 30],
    ],
    whole: DIVERGING,
  },
  // Its two hues stay apart for every usual colour deficiency, and get as dark as each other.
  blind: {
    name: "blue, white and red, safe for colour-blind eyes",
    bands: [
      [24, 82, 158],
      [146, 197, 222],
      [255, 255, 255],
      [246, 178, 145],
      [170, 14, 38],
    ],
    whole: DIVERGING,
  },
};

const BACKDROP_GREY = 190;
const STRONGEST_COVER = 0.9;
const COVER_POWER = 0.7;
const DARKEST_GROUND = 0.74;

/**
 * Write the band colours of a map into the pixels of a canvas.
 * @param {Numbers} values
 * @param {number} scale
 * @param {number} small
 * @param {number} large
 * @param {Palette} palette
 * @param {Uint8ClampedArray} out RGBA
 */
export function paintBands(values, scale, small, large, palette, out) {
  const calm = small * scale;
  const strong = large * scale;
  for (let i = 0; i < values.length; i += 1) {
    const magnitude = Math.abs(values[i]);
    const band = Number(magnitude > calm) + Number(magnitude > strong);
    const [red, green, blue] = palette.bands[values[i] < 0 ? 2 - band : 2 + band];
    out[4 * i] = red;
    out[4 * i + 1] = green;
    out[4 * i + 2] = blue;
    out[4 * i + 3] = 255;
  }
}

/**
 * Write blended colours of a map: through the five at equal steps, saturated beyond ±scale.
 * @param {Numbers} values
 * @param {number} scale
 * @param {Palette} palette
 * @param {Uint8ClampedArray} out RGBA
 */
export function paintContinuous(values, scale, palette, out) {
  paintRamp(values, scale, new Ramp(palette.bands), out);
}

/**
 * Write a map of the whole score: blue, white and red, over a photograph in light grey.
 * @param {Numbers} values
 * @param {number} scale
 * @param {Palette} palette
 * @param {Uint8ClampedArray} out RGBA
 * @param {Numbers | null} [picture] RGB; without one the colours stand alone.
 */
export function paintWhole(values, scale, palette, out, picture = null) {
  paintRamp(values, scale, new Ramp(palette.whole), out);
  if (picture === null) {
    return;
  }
  for (let i = 0; i < values.length; i += 1) {
    const ground = DARKEST_GROUND + (1 - DARKEST_GROUND) * (luminance(picture, i) / 255);
    for (let channel = 0; channel < 3; channel += 1) {
      out[4 * i + channel] *= ground;
    }
  }
}

/**
 * Write a smoothed map over a paled photograph: the stronger a value, the more it covers.
 * @param {Numbers | null} picture RGB
 * @param {Numbers} smooth
 * @param {number} scale
 * @param {Palette} palette
 * @param {Uint8ClampedArray} out RGBA
 */
export function paintSaliency(picture, smooth, scale, palette, out) {
  paintRamp(smooth, scale, new Ramp(palette.bands), out);
  for (let i = 0; i < smooth.length; i += 1) {
    const ground = picture === null ? BACKDROP_GREY : 60 + 0.7 * luminance(picture, i);
    const strength = Math.min(Math.abs(relativeTo(smooth[i], scale)), 1);
    // A power, written so that it is quick.
    const cover = strength > 0 ? STRONGEST_COVER * Math.exp(COVER_POWER * Math.log(strength)) : 0;
    const left = (1 - cover) * ground;
    out[4 * i] = cover * out[4 * i] + left;
    out[4 * i + 1] = cover * out[4 * i + 1] + left;
    out[4 * i + 2] = cover * out[4 * i + 2] + left;
  }
}

/**
 * A value in scales, from −1 to 1; of a scale of zero only the sign is left.
 * @param {number} value
 * @param {number} scale
 */
function relativeTo(value, scale) {
  return scale > 0 ? Math.min(Math.max(value / scale, -1), 1) : Math.sign(value);
}

/**
 * @param {Numbers} picture
 * @param {number} pixel
 */
function luminance(picture, pixel) {
  const at = 3 * pixel;
  return picture[at] * 0.299 + picture[at + 1] * 0.587 + picture[at + 2] * 0.114;
}

/** Colours at equal steps from −1 to 1, and straight lines between them. */
class Ramp {
  /** @param {Rgb[]} colors */
  constructor(colors) {
    this.last = colors.length - 1;
    this.anchors = colors.map((_, i) => (i === this.last ? 1 : i * (2 / this.last) - 1));
    this.colors = colors;
    this.slopes = colors.slice(0, -1).map((color, i) => {
      const width = this.anchors[i + 1] - this.anchors[i];
      return color.map((value, channel) => (colors[i + 1][channel] - value) / width);
    });
  }

  /**
   * The number of the piece that a place lies on.
   * @param {number} place
   */
  piece(place) {
    let piece = Math.min(Math.max(Math.floor(((place + 1) / 2) * this.last), 0), this.last - 1);
    while (piece > 0 && place < this.anchors[piece]) piece -= 1;
    while (piece < this.last - 1 && place >= this.anchors[piece + 1]) piece += 1;
    return piece;
  }
}

/**
 * @param {Numbers} values
 * @param {number} scale
 * @param {Ramp} ramp
 * @param {Uint8ClampedArray} out RGBA; it rounds halves to even, as NumPy does.
 */
function paintRamp(values, scale, ramp, out) {
  for (let i = 0; i < values.length; i += 1) {
    const place = relativeTo(values[i], scale);
    const piece = ramp.piece(place);
    const [color, slopes] = [ramp.colors[piece], ramp.slopes[piece]];
    const step = place - ramp.anchors[piece];
    for (let channel = 0; channel < 3; channel += 1) {
      const end = place === 1; // as exactly as the first colour
      out[4 * i + channel] = end ? ramp.colors[ramp.last][channel] : slopes[channel] * step + color[channel];
    }
    out[4 * i + 3] = 255;
  }
}
