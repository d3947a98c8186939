// The stage: all layers on one canvas. Layers are put together once when they change; panning and
// zooming only draw the result.

import { make, sentenceOf } from "./dom.js";
import { markNegative, strokesFor } from "./hatching.js";
import { blankCanvas, penOf, Pyramid } from "./pyramid.js";
import { findScale, SCALE_OF_LAYER } from "./scales.js";
import { drawMarks } from "./marks.js";
import { LAYER_NAMES, widthsOf } from "./state.js";

/** @typedef {{name: string, painted: import("./painter.js").Painted, opacity: number}} Shown */

/** What changes the layers; the rest changes only what is drawn over them. */
const PAINTED = [
  "target",
  "rather",
  "depth",
  "layers",
  "small",
  "large",
  "scaleMode",
  "typed",
  "sigma",
  "spread",
  "palette",
  "blended",
  "answers",
];
const BUSY_AFTER = 250;

/** The canvas that shows the picture and its maps. */
export class Stage {
  /** @param {import("./bench.js").Bench} bench */
  constructor(bench) {
    this.bench = bench;
    const { width, height } = bench.scene;
    this.canvas = blankCanvas(1, 1);
    this.canvas.className = "gx-canvas";
    this.canvas.setAttribute("aria-hidden", "true");
    this.busy = make("div", { class: "gx-busy", hidden: true }, "computing…");
    this.element = make(
      "div",
      {
        class: "gx-stage",
        "data-gx": "stage",
        tabindex: 0,
        role: "application",
        "aria-roledescription": "picture",
        "aria-label": this.label(),
      },
      this.canvas,
      this.busy,
    );
    this.layers = new Pyramid(width, height);
    this.marks = new Pyramid(width, height);
    this.marksKey = "";
    this.marked = false;
    this.cover = blankCanvas(1, 1);
    this.density = 1;
    this.turn = 0;
    this.asked = false;
    /** @type {import("./state.js").Scales} */
    this.scales = { pixels: NaN, saliency: NaN, whole: NaN };
    /** The values that are printed into large pixels. @type {import("./types.js").Numbers | null} */
    this.printed = null;
    /** @type {import("./drawing.js").Drawing | null} */
    this.drawing = null;
    /** @type {Path2D | null} */
    this.outline = null;
    this.watchSize();
    bench.store.watch(PAINTED, () => void this.refresh());
    bench.store.watch(["row", "column", "view"], () => this.drawSoon());
    bench.store.watch(["view", "tool"], () => this.freeScroll());
  }

  label() {
    const { manifest } = this.bench;
    const [height, width] = manifest.size;
    return (
      `Picture ${manifest.name}, ${height} rows by ${width} columns. Arrow keys move the ` +
      "cursor, plus and minus zoom, 0 fits, letters choose a tool."
    );
  }

  /** A finger on a picture that is seen whole scrolls the page: there is nothing to move. */
  freeScroll() {
    const free = this.bench.viewport.fitted && this.bench.state.tool === "move";
    this.element.classList.toggle("gx-free", free);
  }

  watchSize() {
    const observer = new ResizeObserver(() => this.resize());
    observer.observe(this.element);
    this.bench.life.signal.addEventListener("abort", () => observer.disconnect());
  }

  resize() {
    const { clientWidth, clientHeight } = this.element;
    if (!clientWidth || !clientHeight) return;
    this.density = window.devicePixelRatio || 1;
    this.canvas.width = this.cover.width = Math.round(clientWidth * this.density);
    this.canvas.height = this.cover.height = Math.round(clientHeight * this.density);
    this.bench.viewport.resize(clientWidth, clientHeight);
    this.bench.store.touch("view");
    this.draw(); // at once: a canvas that was resized is blank
  }

  /** Paint what changed and put the layers together; a newer call ends an older one. */
  async refresh() {
    this.turn += 1;
    const turn = this.turn;
    const current = () => turn === this.turn && !this.bench.life.signal.aborted;
    this.element.setAttribute("aria-busy", "true");
    const waiting = setTimeout(() => {
      this.busy.hidden = !current();
    }, BUSY_AFTER);
    const problem = await this.paint(current);
    clearTimeout(waiting);
    if (!current()) return;
    this.bench.tell(problem);
    this.busy.hidden = true;
    this.element.removeAttribute("aria-busy");
    this.element.dataset.ready = String(turn);
  }

  /**
   * What is wrong with one layer leaves the others as they are.
   * @param {() => boolean} current
   * @returns {Promise<string>} what went wrong, or ""
   */
  async paint(current) {
    const { bench } = this;
    const state = { ...bench.state };
    const scales = { pixels: NaN, saliency: NaN, whole: NaN };
    /** @type {Shown[]} */
    const shown = [];
    let problem = "";
    // The scale of single pixels is always needed: the cursor names the band.
    for (const name of ["", ...LAYER_NAMES]) {
      if (name && !state.layers[name].on) continue;
      try {
        await this.findScaleOf(name || "distribution", scales, state);
        const painted =
          name && current() && (await bench.painter.paint(name, state, scales, current));
        if (painted) shown.push({ name, painted, opacity: state.layers[name].opacity });
      } catch (error) {
        problem ||= sentenceOf(error);
      }
      if (!current()) return "";
    }
    this.scales = scales;
    this.compose(shown);
    this.hatch(state, shown);
    this.printed =
      shown.find(({ name }) => name === "distribution")?.painted.signed?.values ?? null;
    bench.store.touch("scales");
    this.draw();
    return problem;
  }

  /**
   * @param {string} layer
   * @param {import("./state.js").Scales} scales
   * @param {import("./state.js").State} state
   */
  async findScaleOf(layer, scales, state) {
    const key = SCALE_OF_LAYER[layer];
    if (!key || !Number.isNaN(scales[key]) || (key === "whole" && state.depth < 0)) return;
    scales[key] = await findScale(this.bench, key, widthsOf(state, this.bench.manifest));
  }

  /** @param {Shown[]} shown */
  compose(shown) {
    const { full } = this.layers;
    const pen = penOf(full);
    pen.globalAlpha = 1;
    pen.clearRect(0, 0, full.width, full.height);
    for (const { painted, opacity } of shown) {
      pen.globalAlpha = opacity;
      pen.drawImage(painted.canvas, 0, 0);
    }
    this.layers.update();
  }

  /**
   * Strokes over the uppermost map that has a sign.
   * @param {import("./state.js").State} state
   * @param {Shown[]} shown
   */
  hatch(state, shown) {
    const top = shown.findLast(({ painted, opacity }) => painted.signed && opacity > 0)?.painted;
    this.marked = state.palette === "blind" && Boolean(top);
    if (!this.marked || !top?.signed) return;
    const key = [top.key, state.small, state.large, top.signed.scale].join();
    if (key !== this.marksKey) markNegative(top.signed, state.small, state.large, this.marks);
    this.marksKey = key;
  }

  drawSoon() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    const pen = penOf(this.canvas);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.drawPyramid(pen, this.layers);
    if (this.marked) this.drawStrokes(pen);
    drawMarks(pen, this);
  }

  /**
   * The part of a picture that is seen.
   * @param {CanvasRenderingContext2D} pen
   * @param {Pyramid} pyramid
   */
  drawPyramid(pen, pyramid) {
    const { viewport } = this.bench;
    const scale = viewport.scale * this.density;
    const [left, top] = viewport.corner().map((at) => at * this.density);
    const level = pyramid.levelFor(scale);
    const first = [Math.max(0, Math.floor(-left / scale)), Math.max(0, Math.floor(-top / scale))];
    const end = [
      Math.min(viewport.width, Math.ceil((this.canvas.width - left) / scale)),
      Math.min(viewport.height, Math.ceil((this.canvas.height - top) / scale)),
    ];
    const [across, down] = [end[0] - first[0], end[1] - first[1]];
    if (across <= 0 || down <= 0) return;
    const [fx, fy] = [level.width / viewport.width, level.height / viewport.height];
    pen.imageSmoothingEnabled = scale < 1;
    pen.drawImage(
      level,
      first[0] * fx,
      first[1] * fy,
      across * fx,
      down * fy,
      left + first[0] * scale,
      top + first[1] * scale,
      across * scale,
      down * scale,
    );
  }

  /** @param {CanvasRenderingContext2D} pen */
  drawStrokes(pen) {
    const coverPen = penOf(this.cover);
    coverPen.globalCompositeOperation = "source-over";
    coverPen.clearRect(0, 0, this.cover.width, this.cover.height);
    this.drawPyramid(coverPen, this.marks);
    coverPen.globalCompositeOperation = "source-in";
    coverPen.fillStyle = strokesFor(coverPen, this.density);
    coverPen.fillRect(0, 0, this.cover.width, this.cover.height);
    pen.drawImage(this.cover, 0, 0);
  }
}
