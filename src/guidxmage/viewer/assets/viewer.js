// The viewer: everything that one explanation of one photo lets itself be asked.

import { AreasPanel } from "./areas_panel.js";
import { makeAttackPanel } from "./attack_panel.js";
import { Bench } from "./bench.js";
import { ClassesPanel } from "./classes_panel.js";
import { makeColorsPanel } from "./colors_panel.js";
import { makeDepthPanel } from "./depth_panel.js";
import { choice, make } from "./dom.js";
import { Drawing } from "./drawing.js";
import { makeErasePanel } from "./erase_panel.js";
import { makeEvidencePanel } from "./evidence_panel.js";
import { keepInAddress } from "./hash.js";
import { listenToKeys } from "./keys.js";
import { makeLayersPanel } from "./layers_panel.js";
import { Pointing } from "./pointing.js";
import { openForPrint } from "./printing.js";
import { Readout } from "./readout.js";
import { Stage } from "./stage.js";
import { hasTool, makeToolbar, makeToolOptions } from "./toolbar.js";
import { briefly, inPercent } from "./words.js";

/** From this width on the panels stand beside the stage. */
const WIDE = 860;
/** Below this width words give way to signs. */
const NARROW = 560;

/**
 * Show an explanation inside an element.
 * @param {HTMLElement} element
 * @param {import("./types.js").Source} source
 * @param {import("./types.js").MountOptions} [options]
 */
export function mount(element, source, options = {}) {
  const bench = new Bench(source, options);
  if (options.url) keepInAddress(bench);
  const classes = new ClassesPanel(bench);
  const root = make(
    "div",
    { class: "gx-viewer", "data-home": bench.home },
    makeHeader(bench),
    bench.notice,
    makeColumns(bench, classes),
    bench.voice,
  );
  bench.store.watch(["theme"], () => {
    root.dataset.theme = bench.state.theme;
  });
  watchWidth(bench, root);
  openForPrint(bench, root);
  if (bench.home === "notebook") keepKeys(root);
  element.replaceChildren(root);
  return {
    /** Take the viewer away; questions that are still asked are cancelled. */
    destroy() {
      bench.life.abort();
      root.remove();
    },
    /**
     * Show one more class, as an answer brought it.
     * @param {import("./types.js").ExplainAnswer} answer
     */
    addTarget: (answer) => classes.add(answer),
  };
}

/**
 * The stage and what is read from it, and the panels beside it.
 * @param {Bench} bench
 * @param {ClassesPanel} classes
 */
function makeColumns(bench, classes) {
  const stage = new Stage(bench);
  stage.drawing = new Drawing(bench);
  new Pointing(stage);
  listenToKeys(stage, (tool) => hasTool(bench, tool));
  const questions = [makeErasePanel(bench), makeAttackPanel(bench)];
  const main = [
    makeToolbar(bench),
    stage.element,
    makeToolOptions(bench),
    makeDepthPanel(bench),
    new Readout(stage).element,
    new AreasPanel(stage).element,
    make("div", { class: "gx-questions", "data-gx": "questions" }, questions),
  ];
  const side = [
    classes.element,
    makeLayersPanel(bench),
    makeColorsPanel(stage),
    makeEvidencePanel(bench),
  ];
  return make(
    "div",
    { class: "gx-columns" },
    make("div", { class: "gx-main" }, main),
    make("div", { class: "gx-side" }, side),
  );
}

/** @param {Bench} bench */
function makeHeader(bench) {
  const { manifest, store } = bench;
  const title = make("h1", {}, manifest.name || "Explanation");
  const what = make("p", { class: "gx-what" });
  store.watch(["target", "rather", "targets"], () => {
    const { entry } = bench.subject;
    const share = inPercent(entry.probability);
    what.replaceChildren(
      make("strong", {}, entry.name),
      ` scores ${briefly(entry.score, 6)}${entry.unit ? ` ${entry.unit}` : ""}`,
      share ? ` (${share})` : "",
      make("span", { class: "gx-network" }, ` by ${manifest.network} · ${manifest.exactness}`),
    );
  });
  const theme = choice(
    "Theme",
    [
      ["auto", "auto"],
      ["light", "light"],
      ["dark", "dark"],
    ],
    (value) => store.set({ theme: /** @type {any} */ (value) }),
    { "data-gx": "theme" },
  );
  store.watch(["theme"], () => theme.show(bench.state.theme));
  return make("header", { class: "gx-header" }, make("div", {}, title, what), theme.field);
}

/**
 * A notebook has shortcuts of single letters too; those typed here are meant for the viewer.
 * @param {HTMLElement} root
 */
function keepKeys(root) {
  root.dataset.lmSuppressShortcuts = "true";
  root.addEventListener("keydown", (event) => event.stopPropagation());
}

/**
 * The room that there is decides, not the window: a notebook's cell is narrow in a wide one.
 * @param {Bench} bench
 * @param {HTMLElement} root
 */
function watchWidth(bench, root) {
  let first = true;
  const observer = new ResizeObserver(() => {
    const width = root.clientWidth;
    if (first && width > 0) {
      first = false;
      if (width < NARROW) foldForSmall(root);
    }
    root.classList.toggle("gx-wide", width >= WIDE);
    root.classList.toggle("gx-narrow", width < NARROW);
  });
  observer.observe(root);
  bench.life.signal.addEventListener("abort", () => observer.disconnect());
}

/**
 * On a small screen only what is used most stands open at first.
 * @param {HTMLElement} root
 */
function foldForSmall(root) {
  for (const one of root.querySelectorAll("details.gx-panel")) {
    const name = one.getAttribute("data-gx");
    if (name !== "classes" && name !== "layers") one.removeAttribute("open");
  }
}
