// The stage by keyboard alone.

/** @type {Record<string, import("./state.js").ToolName>} */
const TOOL_KEYS = {
  v: "move",
  r: "rectangle",
  b: "brush",
  l: "lasso",
  o: "object",
  s: "superpixel",
};
/** @type {Record<string, [number, number]>} rows and columns */
const STEPS = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};
const LONG_STEP = 10;
const ZOOM_STEP = 1.4;

/**
 * @param {import("./stage.js").Stage} stage
 * @param {(tool: import("./state.js").ToolName) => boolean} hasTool
 */
export function listenToKeys(stage, hasTool) {
  stage.element.addEventListener("keydown", (event) => {
    if (event.altKey || event.metaKey || event.ctrlKey) return;
    if (
      onCursor(stage, event) ||
      onZoom(stage, event.key) ||
      onDrawing(stage, event.key) ||
      onTool(stage, event.key.toLowerCase(), hasTool)
    ) {
      event.preventDefault();
    }
  });
}

/**
 * @param {import("./stage.js").Stage} stage
 * @param {KeyboardEvent} event
 */
function onCursor(stage, event) {
  const { bench, drawing } = stage;
  const { scene, state, store, viewport } = bench;
  let { row, column } = state;
  if (event.key === "Home") column = 0;
  else if (event.key === "End") column = scene.width - 1;
  else if (event.key === "PageUp") row = 0;
  else if (event.key === "PageDown") row = scene.height - 1;
  else if (event.key in STEPS) {
    const far = event.shiftKey ? LONG_STEP : 1;
    row = Math.min(scene.height - 1, Math.max(0, row + far * STEPS[event.key][0]));
    column = Math.min(scene.width - 1, Math.max(0, column + far * STEPS[event.key][1]));
  } else return false;
  viewport.reveal(row, column);
  store.set({ row, column });
  store.touch("view");
  drawing?.extend(column + 0.5, row + 0.5);
  return true;
}

/**
 * @param {import("./stage.js").Stage} stage
 * @param {string} key
 */
function onZoom(stage, key) {
  const { viewport, state, store } = stage.bench;
  if (key === "0") viewport.fit();
  else if (key === "+" || key === "=" || key === "-" || key === "_") {
    const closer = key === "+" || key === "=";
    viewport.zoom(closer ? ZOOM_STEP : 1 / ZOOM_STEP);
    viewport.reveal(state.row, state.column);
  } else return false;
  store.touch("view");
  return true;
}

/**
 * @param {import("./stage.js").Stage} stage
 * @param {string} key
 */
function onDrawing(stage, key) {
  const { drawing, bench } = stage;
  const { state } = bench;
  if (!drawing) return false;
  if (key === "Escape") {
    if (drawing.cancel()) bench.speak("Shape cancelled.");
    return false; // so that a dialog around the viewer still closes
  }
  if (key === "[" || key === "]") {
    const brush = Math.max(0.5, state.brush + (key === "]" ? 1 : -1));
    bench.store.set({ brush });
    bench.speak(`Brush radius ${brush} pixels.`);
    return true;
  }
  if (key !== "Enter" && key !== " ") return false;
  if (drawing.active) {
    drawing.finish();
  } else {
    drawing.begin(state.column + 0.5, state.row + 0.5);
    if (drawing.active) bench.speak(`Started a ${state.tool}; arrow keys draw, Enter ends it.`);
  }
  return true;
}

/**
 * @param {import("./stage.js").Stage} stage
 * @param {string} key
 * @param {(tool: import("./state.js").ToolName) => boolean} hasTool
 */
function onTool(stage, key, hasTool) {
  const tool = TOOL_KEYS[key];
  if (!tool || !hasTool(tool)) return false;
  stage.drawing?.cancel();
  stage.bench.store.set({ tool });
  stage.bench.speak(`Tool: ${tool}.`);
  return true;
}
