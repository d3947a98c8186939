// The values at which colours saturate.

/**
 * @typedef {import("./state.js").Scales} Scales
 * @typedef {import("./bench.js").Bench} Bench
 */

/** The scales one can choose from, in words. */
/** @type {[import("./state.js").ScaleMode, string][]} */
export const SCALE_WORDS = [
  ["target", "this class, all depths"],
  ["depth", "this depth alone"],
  ["all", "all classes and depths"],
  ["typed", "as typed"],
];

/**
 * The scales in use. Those of layers that are not shown are 0: they take long to find.
 * @param {Bench} bench
 * @param {{saliency: number, whole: number}} widths
 * @returns {Promise<Scales>}
 */
export async function scalesFor(bench, widths) {
  const { state, scene } = bench;
  const { layers, scaleMode, typed } = state;
  const depths = scaleMode === "depth" ? [state.depth]
    : scene.manifest.depths.map((_, number) => number);
  const subjects = [bench.subject];
  if (scaleMode === "all") {
    scene.targets.forEach((_, number) => subjects.push(scene.subject(number, -1)));
  }
  const given = (/** @type {keyof Scales} */ name) => (scaleMode === "typed" ? typed[name] : 0);
  const scales = {
    pixels: given("pixels") || await largest(subjects, (one) => one.pixelScale()),
    saliency: 0,
    whole: 0,
  };
  if (layers.saliency.on) {
    scales.saliency = given("saliency")
      || await largest(subjects, (one) => one.saliencyScale(widths.saliency));
  }
  if ((layers.whole.on || layers.placed.on) && state.depth >= 0) {
    scales.whole = given("whole")
      || await largest(subjects, (one) => one.wholeScale(depths, state.sigma));
  }
  return scales;
}

/**
 * @param {import("./subject.js").Subject[]} subjects
 * @param {(subject: import("./subject.js").Subject) => Promise<number>} scaleOf
 */
async function largest(subjects, scaleOf) {
  let found = 0;
  for (const subject of new Set(subjects)) found = Math.max(found, await scaleOf(subject));
  return found;
}
