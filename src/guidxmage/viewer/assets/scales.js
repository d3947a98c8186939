// The values at which colours saturate.

/**
 * @typedef {import("./state.js").Scales} Scales
 * @typedef {import("./bench.js").Bench} Bench
 * @typedef {import("./subject.js").Subject} Subject
 */

/**
 * The scales one can choose from, in words.
 * @type {[import("./state.js").ScaleMode, string][]}
 */
export const SCALE_WORDS = [
  ["target", "this class, all depths"],
  ["depth", "this depth alone"],
  ["all", "all classes and depths"],
  ["typed", "as typed"],
];

/**
 * Which scale a layer is painted with.
 * @type {Record<string, keyof Scales>}
 */
export const SCALE_OF_LAYER = {
  distribution: "pixels",
  saliency: "saliency",
  placed: "whole",
  whole: "whole",
};

/**
 * A scale as the state has it: of this class, of all, or as typed. It may take a while to find.
 * @param {Bench} bench
 * @param {keyof Scales} name
 * @param {{saliency: number, whole: number}} widths
 * @returns {Promise<number>}
 */
export async function findScale(bench, name, widths) {
  const { state, scene } = bench;
  if (state.scaleMode === "typed" && state.typed[name] > 0) return state.typed[name];
  const subjects = new Set([bench.subject]);
  if (state.scaleMode === "all") {
    scene.targets.forEach((_, number) => subjects.add(scene.subject(number, -1)));
  }
  const depths =
    state.scaleMode === "depth" ? [state.depth] : scene.manifest.depths.map((_, number) => number);
  let found = 0;
  for (const subject of subjects) {
    const own =
      name === "pixels"
        ? await subject.pixelScale()
        : name === "saliency"
          ? await subject.saliencyScale(widths.saliency)
          : await subject.wholeScale(depths, state.sigma);
    found = Math.max(found, own);
  }
  return found;
}
