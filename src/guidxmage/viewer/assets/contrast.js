// "a rather than b": every number of one class less that of the other. All of them are sums, so
// the differences add up to the difference of the scores just as exactly.

/**
 * @typedef {import("./types.js").Target} TargetNumbers
 * @typedef {import("./types.js").TargetDepth} DepthNumbers
 */

/**
 * @param {[string, number][]} plus
 * @param {[string, number][]} minus
 * @returns {[string, number][]}
 */
function lessByLayer(plus, minus) {
  const values = new Map(plus);
  for (const [site, value] of minus) values.set(site, (values.get(site) ?? 0) - value);
  return [...values];
}

/**
 * @param {DepthNumbers} plus
 * @param {DepthNumbers} minus
 * @returns {DepthNumbers}
 */
function lessAtDepth(plus, minus) {
  return {
    whole_sum: plus.whole_sum - minus.whole_sum,
    placed_bias_sum: plus.placed_bias_sum - minus.placed_bias_sum,
    unplaced: plus.unplaced - minus.unplaced,
    unplaced_by_layer: lessByLayer(plus.unplaced_by_layer, minus.unplaced_by_layer),
    residual: plus.residual - minus.residual,
    residual_bound: plus.residual_bound + minus.residual_bound,
  };
}

/**
 * The numbers of a difference. Rounding may add up, so bounds are added.
 * @param {TargetNumbers} plus
 * @param {TargetNumbers} minus
 * @returns {TargetNumbers}
 */
export function contrastOf(plus, minus) {
  const depths = Math.min(plus.depths.length, minus.depths.length);
  return {
    name: `${plus.name} rather than ${minus.name}`,
    target: plus.target,
    against: minus.target,
    score: plus.score - minus.score,
    probability: null,
    contribution_sum: plus.contribution_sum - minus.contribution_sum,
    bias: plus.bias - minus.bias,
    residual: plus.residual - minus.residual,
    residual_bound:
      plus.residual_bound === null || minus.residual_bound === null
        ? null
        : plus.residual_bound + minus.residual_bound,
    bias_by_layer: lessByLayer(plus.bias_by_layer, minus.bias_by_layer),
    depths: plus.depths.slice(0, depths).map((one, at) => lessAtDepth(one, minus.depths[at])),
  };
}
