// The tools of the stage: what a pointer or the Enter key does there.

import { choice, dial, make, pressable } from "./dom.js";

/** @type {[import("./state.js").ToolName, string, string][]} */
const TOOLS = [
  ["move", "Move", "v"],
  ["rectangle", "Rectangle", "r"],
  ["brush", "Brush", "b"],
  ["lasso", "Lasso", "l"],
  ["object", "Object", "o"],
  ["superpixel", "Superpixel", "s"],
];
const SIGNS = { move: "✥", rectangle: "▭", brush: "●", lasso: "∿", object: "◈", superpixel: "⬡" };

/**
 * Whether there is something that a tool could take.
 * @param {import("./bench.js").Bench} bench
 * @param {import("./state.js").ToolName} tool
 */
export function hasTool(bench, tool) {
  if (tool === "object") return bench.scene.arrays.has("objects");
  return tool === "superpixel" ? bench.scene.arrays.has("superpixels") : true;
}

/** @param {import("./bench.js").Bench} bench */
export function makeToolbar(bench) {
  const { store } = bench;
  const buttons = TOOLS.filter(([tool]) => hasTool(bench, tool)).map(([tool, words, key]) => {
    const button = make(
      "button",
      {
        type: "button",
        class: "gx-tool",
        "data-tool": tool,
        title: `${words} (${key})`,
        "aria-keyshortcuts": key,
        click: () => store.set({ tool }),
      },
      make("span", { "aria-hidden": "true" }, SIGNS[tool]),
      make("span", { class: "gx-tool-word" }, words),
    );
    store.watch(["tool"], () =>
      button.setAttribute("aria-pressed", String(bench.state.tool === tool)),
    );
    return button;
  });
  return make(
    "div",
    { class: "gx-toolbar", role: "group", "aria-label": "Tools", "data-gx": "tools" },
    make("div", { class: "gx-tools" }, buttons),
    zoomButtons(bench),
  );
}

/**
 * What the chosen tool lets choose. It stands below the stage, which so stays where it is.
 * @param {import("./bench.js").Bench} bench
 */
export function makeToolOptions(bench) {
  const { store, state } = bench;
  const radius = dial({
    min: 0.5,
    max: Math.max(4, Math.round(Math.min(...bench.manifest.size) / 4)),
    step: 0.5,
    value: state.brush,
    label: "Brush radius in pixels",
    onInput: (brush) => store.set({ brush }),
  });
  const brush = make(
    "div",
    { class: "gx-brush" },
    make("span", {}, "radius"),
    radius.range,
    radius.number,
  );
  const mode = choice(
    "A shape",
    [
      ["new", "new area"],
      ["add", "adds to the chosen"],
      ["take", "takes from it"],
    ],
    (value) => store.set({ mode: /** @type {any} */ (value) }),
  );
  store.watch(["brush"], () => radius.show(bench.state.brush));
  store.watch(["mode"], () => mode.show(bench.state.mode));
  store.watch(["tool", "chosen", "areas"], () => {
    brush.hidden = bench.state.tool !== "brush";
    mode.field.hidden = bench.state.tool === "move" || !bench.areas.mask(bench.state.chosen);
  });
  return make("div", { class: "gx-toolbar" }, brush, mode.field);
}

/** @param {import("./bench.js").Bench} bench */
function zoomButtons(bench) {
  const { viewport, store, state } = bench;
  const zoomed = make("output", { class: "gx-zoom", "data-value": "zoom" });
  const by = (/** @type {number} */ factor) => () => {
    viewport.zoom(factor);
    store.touch("view");
  };
  store.watch(["view"], () => {
    zoomed.textContent = `${Number((100 * viewport.scale).toPrecision(3))} %`;
  });
  const toPixels = () => {
    viewport.zoom(24 / viewport.scale);
    [viewport.x, viewport.y] = [state.column + 0.5, state.row + 0.5];
    viewport.reveal(state.row, state.column);
    store.touch("view");
  };
  return make(
    "div",
    { class: "gx-tools" },
    pressable("−", by(1 / 1.6), { "aria-label": "Zoom out", title: "Zoom out (−)" }),
    pressable("+", by(1.6), { "aria-label": "Zoom in", title: "Zoom in (+)" }),
    pressable(
      "Fit",
      () => {
        viewport.fit();
        store.touch("view");
      },
      { title: "Whole picture (0)" },
    ),
    pressable("Pixels", toPixels, { title: "Single pixels around the cursor" }),
    zoomed,
  );
}
