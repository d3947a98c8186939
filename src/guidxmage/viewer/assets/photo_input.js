// A photo of the reader's as the network's input: decoded by the browser, and then resized, cropped
// and normalised as the network's preprocessing says.

import { resizedAs } from "./resampling.js";

/**
 * @typedef {import("./graph.js").Geometry} Geometry
 * @typedef {import("./resampling.js").Bytes} Bytes
 */

const MOST_FILE_BYTES = 2 ** 28;
const MOST_PIXELS = 200e6;
/** How Pillow weighs colours in a grey picture, in 65536ths. */
const GREY_WEIGHTS = [19595, 38470, 7471];

/**
 * The pixels of a photo, upright, RGB; transparent ones lie on white.
 * @param {File} file
 * @returns {Promise<Bytes>}
 */
export async function decoded(file) {
  if (file.size > MOST_FILE_BYTES) throw new Error(`“${file.name}” is too large to be a photo.`);
  // Colour profiles and the like are passed over, as Pillow does.
  const photo = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
    throw new Error(`“${file.name}” is no photo that this browser can read.`);
  });
  const { height, width } = photo;
  try {
    if (height * width > MOST_PIXELS) {
      throw new Error(`“${file.name}” is too large: ${width}×${height} pixels; scale it down first.`);
    }
    const canvas = new OffscreenCanvas(width, height);
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    if (!pen) throw new Error("This browser gives no canvas to read the photo from.");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, width, height);
    pen.drawImage(photo, 0, 0);
    const { data: rgba } = pen.getImageData(0, 0, width, height);
    const data = new Uint8Array(3 * height * width);
    for (let from = 0, to = 0; to < data.length; from += 4, to += 3) {
      data[to] = rgba[from];
      data[to + 1] = rgba[from + 1];
      data[to + 2] = rgba[from + 2];
    }
    return { data, height, width, channels: 3 };
  } finally {
    photo.close();
  }
}

/**
 * The part of a photo that the network sees, at the network's size: what Pillow makes of it.
 * @param {Bytes} photo RGB
 * @param {Geometry} geometry
 * @returns {Bytes}
 */
export function seenPart(photo, geometry) {
  const own = geometry.mean.length === 1 ? greyOf(photo) : photo;
  const [height, width] = resizedSize([own.height, own.width], geometry.resize);
  return croppedAs(resizedAs(own, height, width, geometry.interpolation), geometry);
}

/** @param {Bytes} photo @returns {Bytes} */
function greyOf({ data, height, width }) {
  const grey = new Uint8Array(height * width);
  for (let at = 0; at < grey.length; at += 1) {
    const sum = GREY_WEIGHTS.reduce((total, weight, color) => total + weight * data[3 * at + color], 0);
    grey[at] = (sum + 2 ** 15) >> 16;
  }
  return { data: grey, height, width, channels: 1 };
}

/**
 * @param {[number, number]} size
 * @param {Geometry["resize"]} resize
 * @returns {[number, number]}
 */
function resizedSize([height, width], resize) {
  if (resize === null) return [height, width];
  if (Array.isArray(resize)) return resize;
  const longer = Math.trunc((resize * Math.max(height, width)) / Math.min(height, width));
  if (longer * resize > MOST_PIXELS) {
    throw new Error(
      `The photo is ${width}×${height} pixels: too elongated to enlarge its shorter side to ` +
        `${resize}; crop it first.`,
    );
  }
  return width <= height ? [longer, resize] : [resize, longer];
}

/**
 * The middle of a photo; black where it does not reach.
 * @param {Bytes} photo
 * @param {Geometry} geometry
 * @returns {Bytes}
 */
function croppedAs(photo, { crop, crop_starts: starts }) {
  if (crop === null) return photo;
  const [height, width] = Array.isArray(crop) ? crop : [crop, crop];
  const top = cropStart(photo.height, height, starts);
  const left = cropStart(photo.width, width, starts);
  const { channels } = photo;
  const data = new Uint8Array(height * width * channels);
  const [first, end] = [Math.max(left, 0), Math.min(left + width, photo.width)];
  for (let row = Math.max(top, 0); row < Math.min(top + height, photo.height); row += 1) {
    const line = photo.data.subarray(
      (row * photo.width + first) * channels,
      (row * photo.width + end) * channels,
    );
    data.set(line, ((row - top) * width + first - left) * channels);
  }
  return { data, height, width, channels };
}

/**
 * @param {number} size
 * @param {number} part
 * @param {Geometry["crop_starts"]} starts half a pixel goes to the even side, or down
 */
function cropStart(size, part, starts) {
  if (part > size) return -Math.floor((part - size) / 2);
  const half = (size - part) / 2;
  const below = Math.floor(half);
  return half === below || starts === "down" || below % 2 === 0 ? below : below + 1;
}

/**
 * Bytes (H, W, C) as an image (C, H, W) of the explained space.
 * @param {Bytes} seen
 * @param {Geometry} geometry
 * @param {string} space
 */
export function inputOf({ data, height, width, channels }, geometry, space) {
  const pixels = height * width;
  const image = new Float32Array(data.length);
  for (let channel = 0; channel < channels; channel += 1) {
    const [mean, std] = [geometry.mean[channel], geometry.std[channel]].map(Math.fround);
    for (let at = 0; at < pixels; at += 1) {
      const value = Math.fround(data[at * channels + channel] / 255);
      image[channel * pixels + at] =
        space === "input" ? Math.fround(value - mean) / std : value;
    }
  }
  return image;
}
