// Shapes drawn on the stage, by pointer or keyboard, become areas.

import { brushMask, labelMask, polygonMask, rectangleMask } from "./areas.js";

/**
 * @typedef {import("./areas.js").Point} Point
 * @typedef {import("./bench.js").Bench} Bench
 */

/** Objects may leave pixels out; these carry this label. */
const IGNORED = 255;

/** The shape in the making. */
export class Drawing {
  /** @param {Bench} bench */
  constructor(bench) {
    this.bench = bench;
    /** @type {Point[]} */
    this.points = [];
  }

  get active() {
    return this.points.length > 0;
  }

  /**
   * @param {number} x in the picture
   * @param {number} y
   */
  begin(x, y) {
    const { tool } = this.bench.state;
    if (tool === "move") return;
    if (tool === "object" || tool === "superpixel") {
      void this.takeLabel(tool, Math.floor(y), Math.floor(x));
      return;
    }
    this.points = [[x, y]];
    this.bench.store.touch("view");
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  extend(x, y) {
    if (!this.active) return;
    if (this.bench.state.tool === "rectangle") this.points = [this.points[0], [x, y]];
    else this.points.push([x, y]);
    this.bench.store.touch("view");
  }

  cancel() {
    if (!this.active) return false;
    this.points = [];
    this.bench.store.touch("view");
    return true;
  }

  /** The shape is complete. */
  finish() {
    if (!this.active) return;
    const mask = this.mask();
    this.points = [];
    this.take(mask, `area ${this.bench.areas.list.length + 1}`);
    this.bench.store.touch("view");
  }

  mask() {
    const { scene, state } = this.bench;
    const { height, width } = scene;
    const points = this.points;
    if (state.tool === "rectangle") {
      const [[x0, y0], [x1, y1]] = [points[0], points[points.length - 1]];
      return rectangleMask(
        height,
        width,
        Math.floor(Math.min(y0, y1)),
        Math.floor(Math.min(x0, x1)),
        Math.floor(Math.max(y0, y1)),
        Math.floor(Math.max(x0, x1)),
      );
    }
    return state.tool === "brush"
      ? brushMask(height, width, points, state.brush)
      : polygonMask(height, width, points);
  }

  /**
   * The region of a label map under a pixel becomes an area.
   * @param {"object" | "superpixel"} tool
   * @param {number} row
   * @param {number} column
   */
  async takeLabel(tool, row, column) {
    const { scene } = this.bench;
    const kind = tool === "object" ? "objects" : "superpixels";
    const labels = await scene.labels(kind);
    if (!labels || row < 0 || column < 0 || row >= scene.height || column >= scene.width) return;
    const label = labels[row * scene.width + column];
    if (kind === "objects" && label === IGNORED) {
      this.bench.speak("No object here.");
      return;
    }
    this.take(labelMask(labels, label), scene.labelName(kind, label));
  }

  /**
   * A mask becomes a new area, or a part of the chosen one.
   * @param {Uint8Array} mask
   * @param {string} name
   */
  take(mask, name) {
    const { areas, store, state } = this.bench;
    if (!mask.includes(1)) {
      this.bench.speak("The shape holds no pixel.");
      return;
    }
    const chosen = areas.list.find((area) => area.name === state.chosen);
    if (state.mode === "new" || !chosen) {
      const own = areas.add(name, mask);
      store.set({ chosen: own });
      this.bench.speak(`${own} added.`);
    } else {
      const adds = state.mode === "add";
      chosen.mask = chosen.mask.map((inside, at) =>
        Number(adds ? inside || mask[at] : inside && !mask[at]),
      );
      this.bench.speak(`${chosen.name} changed.`);
    }
    store.touch("areas");
  }

  /** What is drawn so far, in pixels of the picture. */
  path() {
    if (!this.active) return null;
    const { tool, brush } = this.bench.state;
    const path = new Path2D();
    const [first, last] = [this.points[0], this.points[this.points.length - 1]];
    if (tool === "rectangle") {
      const [left, right] = [Math.min(first[0], last[0]), Math.max(first[0], last[0])].map(
        Math.floor,
      );
      const [top, bottom] = [Math.min(first[1], last[1]), Math.max(first[1], last[1])].map(
        Math.floor,
      );
      path.rect(left, top, right - left + 1, bottom - top + 1);
      return path;
    }
    path.moveTo(...first);
    for (const point of this.points) path.lineTo(...point);
    if (tool === "lasso") path.closePath();
    if (tool === "brush") {
      path.moveTo(last[0] + brush, last[1]);
      path.arc(last[0], last[1], brush, 0, 2 * Math.PI);
    }
    return path;
  }
}
