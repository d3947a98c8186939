// The slider through the depths, from pixels to the last layer, and the one sum that stays.

import { make } from "./dom.js";
import { depthName, exactly } from "./words.js";

/** @param {import("./bench.js").Bench} bench */
export function makeDepthPanel(bench) {
  const { manifest, store } = bench;
  const { depths } = manifest;
  const name = make("output", { class: "gx-depth-name" });
  const sum = make("p", { class: "gx-sum", "data-gx": "sum" });
  const slider = make("input", {
    type: "range",
    min: 0,
    max: Math.max(0, depths.length - 1),
    step: 1,
    "data-gx": "depths",
    "aria-label": "Depth, from pixels to the last layer",
    input: () => store.set({ depth: Number(slider.value) }),
  });
  store.watch(["depth"], () => {
    const { depth } = bench.state;
    if (depth < 0) return;
    const one = depths[depth];
    const cells = one.site === "input" ? manifest.size : one.grid;
    slider.value = String(depth);
    slider.setAttribute("aria-valuetext", `${depthName(one)}, ${cells.join(" by ")} cells`);
    name.textContent = `${depthName(one)} · ${cells.join("×")}`;
  });
  store.watch(["depth", "target", "rather"], () => fillSum(sum, bench));
  if (!depths.length) return make("div", { class: "gx-depth" }, sum);
  if (depths.length === 1) { // nothing to slide through
    return make("div", { class: "gx-depth" }, make("div", { class: "gx-depth-row" }, name), sum);
  }
  return make(
    "div",
    { class: "gx-depth" },
    make(
      "div",
      { class: "gx-depth-row" },
      make("span", { class: "gx-end" }, "pixels"),
      slider,
      make("span", { class: "gx-end" }, "last layer"),
      name,
    ),
    sum,
  );
}

/**
 * @param {HTMLElement} element
 * @param {import("./bench.js").Bench} bench
 */
function fillSum(element, bench) {
  const { entry } = bench.subject;
  const at = entry.depths[bench.state.depth];
  const part = (
    /** @type {string} */ words,
    /** @type {number | null} */ value,
    /** @type {string} */ key,
  ) =>
    make(
      "span",
      { class: "gx-part" },
      make("b", { "data-value": key }, exactly(value)),
      make("small", {}, words),
    );
  const sign = (/** @type {string} */ words) => make("span", { class: "gx-sign" }, words);
  const parts = at
    ? [
        part("on the picture", at.whole_sum, "on-picture"),
        sign("+"),
        part("no place", at.unplaced, "unplaced"),
      ]
    : [
        part("by its pixels", entry.contribution_sum, "on-picture"),
        sign("+"),
        part("bias", entry.bias, "unplaced"),
      ];
  element.replaceChildren(
    part("score", entry.score, "score"),
    sign("="),
    ...parts,
    sign("+"),
    part("residual", (at ?? entry).residual, "residual"),
  );
}
