// Areas of a photo as masks: how they are drawn, named, packed and saved.

/** @typedef {import("./types.js").Numbers} Numbers */
/** @typedef {[number, number]} Point x and y in pixels; the centre of the first pixel is (0.5, 0.5). */

/**
 * The pixels of a rectangle, its last row and column included, cut at the picture's edge.
 * @param {number} h
 * @param {number} w
 * @param {number} top
 * @param {number} left
 * @param {number} bottom
 * @param {number} right
 */
export function rectangleMask(h, w, top, left, bottom, right) {
  const mask = new Uint8Array(h * w);
  const [first, last] = [Math.max(Math.min(top, bottom), 0), Math.min(Math.max(top, bottom), h - 1)];
  const [start, end] = [Math.max(Math.min(left, right), 0), Math.min(Math.max(left, right), w - 1)];
  for (let row = first; row <= last && start <= end; row += 1) {
    mask.fill(1, row * w + start, row * w + end + 1);
  }
  return mask;
}

/**
 * The pixels whose centres lie inside a closed outline; what is enclosed twice is outside.
 * @param {number} h
 * @param {number} w
 * @param {Point[]} points
 */
export function polygonMask(h, w, points) {
  const mask = new Uint8Array(h * w);
  const heights = points.map((point) => point[1]);
  const first = Math.max(Math.floor(Math.min(...heights)), 0);
  const last = Math.min(Math.ceil(Math.max(...heights)), h - 1);
  for (let row = first; row <= last; row += 1) {
    const crossings = crossingsAt(points, row + 0.5);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const start = Math.max(Math.ceil(crossings[i] - 0.5), 0);
      const end = Math.min(Math.ceil(crossings[i + 1] - 0.5), w);
      if (start < end) {
        mask.fill(1, row * w + start, row * w + end);
      }
    }
  }
  return mask;
}

/**
 * Where an outline crosses a height, from left to right.
 * @param {Point[]} points
 * @param {number} y
 */
function crossingsAt(points, y) {
  const found = [];
  for (let i = 0; i < points.length; i += 1) {
    const [x1, y1] = points[i];
    const [x2, y2] = points[(i + 1) % points.length];
    if (y1 <= y !== y2 <= y) {
      found.push(x1 + ((y - y1) / (y2 - y1)) * (x2 - x1));
    }
  }
  return found.sort((a, b) => a - b);
}

/**
 * The pixels under a stroke: those whose centres lie within its radius, and those it passes through.
 * @param {number} h
 * @param {number} w
 * @param {Point[]} points
 * @param {number} radius
 */
export function brushMask(h, w, points, radius) {
  const mask = new Uint8Array(h * w);
  points.forEach((point, i) => {
    markStroke(mask, h, w, points[Math.max(i - 1, 0)], point, radius);
  });
  return mask;
}

/**
 * @param {Uint8Array} mask
 * @param {number} h
 * @param {number} w
 * @param {Point} from
 * @param {Point} to
 * @param {number} radius
 */
function markStroke(mask, h, w, from, to, radius) {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const length = dx * dx + dy * dy;
  const top = Math.max(Math.floor(Math.min(from[1], to[1]) - radius - 1), 0);
  const bottom = Math.min(Math.ceil(Math.max(from[1], to[1]) + radius), h - 1);
  const left = Math.max(Math.floor(Math.min(from[0], to[0]) - radius - 1), 0);
  const right = Math.min(Math.ceil(Math.max(from[0], to[0]) + radius), w - 1);
  for (let row = top; row <= bottom; row += 1) {
    for (let column = left; column <= right; column += 1) {
      const [x, y] = [column + 0.5 - from[0], row + 0.5 - from[1]];
      const along = length > 0 ? Math.min(Math.max((x * dx + y * dy) / length, 0), 1) : 0;
      const [gapX, gapY] = [x - along * dx, y - along * dy];
      const near = gapX * gapX + gapY * gapY <= radius * radius;
      const through = Math.abs(gapX) <= 0.5 && Math.abs(gapY) <= 0.5;
      if (near || through) {
        mask[row * w + column] = 1;
      }
    }
  }
}

/**
 * The pixels of one label.
 * @param {Numbers} labels
 * @param {number} label
 */
export function labelMask(labels, label) {
  const mask = new Uint8Array(labels.length);
  for (let i = 0; i < labels.length; i += 1) {
    mask[i] = Number(labels[i] === label);
  }
  return mask;
}

/**
 * Run lengths of a mask, beginning with how many zeros it starts with.
 * @param {Uint8Array} mask
 */
export function toRuns(mask) {
  const runs = [];
  let inside = false;
  let start = 0;
  for (let i = 0; i < mask.length; i += 1) {
    if ((mask[i] !== 0) !== inside) {
      runs.push(i - start);
      inside = !inside;
      start = i;
    }
  }
  runs.push(mask.length - start);
  return runs;
}

/**
 * The mask of so many pixels that run lengths stand for.
 * @param {number[]} runs
 * @param {number} pixels
 */
export function fromRuns(runs, pixels) {
  const mask = new Uint8Array(pixels);
  let at = 0;
  runs.forEach((run, i) => {
    if (!Number.isInteger(run) || run < 0) {
      throw new Error(`An area has the run length ${run}; run lengths are whole numbers from 0 on.`);
    }
    mask.fill(i % 2, Math.min(at, pixels), Math.min(at + run, pixels));
    at += run;
  });
  if (at !== pixels) {
    throw new Error(`An area describes ${at} pixels, but the picture has ${pixels}.`);
  }
  return mask;
}

/** Named areas in the order in which they were made. */
export class Areas {
  /** @param {number} pixels */
  constructor(pixels) {
    this.pixels = pixels;
    /** @type {{name: string, mask: Uint8Array}[]} */
    this.list = [];
  }

  /**
   * Add an area; a name that is taken gets a number. Returns the name.
   * @param {string} name
   * @param {Uint8Array} mask
   */
  add(name, mask) {
    const own = this.freeName(name);
    this.list.push({ name: own, mask });
    return own;
  }

  /**
   * Give an area another name; returns the one that it got.
   * @param {string} name
   * @param {string} wanted
   */
  rename(name, wanted) {
    const area = this.list.find((one) => one.name === name);
    if (area === undefined || wanted === name || wanted.trim() === "") {
      return name;
    }
    area.name = this.freeName(wanted);
    return area.name;
  }

  /** @param {string} name */
  remove(name) {
    this.list = this.list.filter((one) => one.name !== name);
  }

  /**
   * The mask of an area as it was drawn, or null.
   * @param {string} name
   */
  mask(name) {
    return this.list.find((one) => one.name === name)?.mask ?? null;
  }

  /**
   * For every pixel the number of the area that it counts for, −1 for the rest. Where areas overlap
   * it is the earlier one: so every pixel counts once, and the table adds up.
   */
  owners() {
    const owners = new Int32Array(this.pixels).fill(-1);
    for (let number = this.list.length - 1; number >= 0; number -= 1) {
      const { mask } = this.list[number];
      for (let i = 0; i < owners.length; i += 1) {
        if (mask[i] !== 0) owners[i] = number;
      }
    }
    return owners;
  }

  /** The masks of what each area counts for, in order. */
  owned() {
    const owners = this.owners();
    return this.list.map(({ name }, number) => ({ name, mask: labelMask(owners, number) }));
  }

  /** The pixels that are in no area. */
  rest() {
    return labelMask(this.owners(), -1);
  }

  /** @param {string} name */
  freeName(name) {
    const wanted = name.trim() === "" ? "area" : name.trim();
    const taken = new Set(this.list.map((one) => one.name));
    let free = wanted;
    for (let number = 2; taken.has(free); number += 1) {
      free = `${wanted} ${number}`;
    }
    return free;
  }
}

/**
 * A table as CSV. Text that a spreadsheet would compute gets an apostrophe in front.
 * @param {(string | number | null)[][]} rows The header among them.
 */
export function areasCsv(rows) {
  return rows.map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");
}

/** @param {string | number | null} value */
function csvCell(value) {
  if (value === null || typeof value === "number") {
    return value === null ? "" : String(value);
  }
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/**
 * A mask as a picture: white inside, black outside.
 * @param {Uint8Array} mask
 * @param {number} h
 * @param {number} w
 * @returns {Promise<Blob>}
 */
export function maskPng(mask, h, w) {
  const canvas = document.createElement("canvas");
  canvas.width = w;
  canvas.height = h;
  const context = canvas.getContext("2d");
  if (context === null) {
    return Promise.reject(new Error("The browser cannot draw the mask."));
  }
  const picture = context.createImageData(w, h);
  for (let i = 0; i < mask.length; i += 1) {
    picture.data.fill(mask[i] === 0 ? 0 : 255, 4 * i, 4 * i + 3);
    picture.data[4 * i + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => {
      if (blob === null) reject(new Error("The browser could not write the mask as PNG."));
      else resolve(blob);
    }, "image/png");
  });
}
