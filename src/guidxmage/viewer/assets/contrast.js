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
 * Null where one of them is not known.
 * @param {number | null} plus
 * @param {number | null} minus
 * @param {1 | -1} sign Of the second.
 */
function together(plus, minus, sign) {
  return plus === null || minus === null ? null : plus + sign * minus;
}

/**
 * @param {DepthNumbers | null} plus
 * @param {DepthNumbers | null} minus
 * @returns {DepthNumbers | null}
 */
function lessAtDepth(plus, minus) {
  if (plus === null || minus === null) return null;
  return {
    whole_sum: plus.whole_sum - minus.whole_sum,
    placed_bias_sum: together(plus.placed_bias_sum, minus.placed_bias_sum, -1),
    unplaced: plus.unplaced - minus.unplaced,
    unplaced_by_layer: lessByLayer(plus.unplaced_by_layer, minus.unplaced_by_layer),
    residual: plus.residual - minus.residual,
    residual_bound: together(plus.residual_bound, minus.residual_bound, 1),
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
    residual_bound: together(plus.residual_bound, minus.residual_bound, 1),
    bias_by_layer: lessByLayer(plus.bias_by_layer, minus.bias_by_layer),
    depths: plus.depths.slice(0, depths).map((one, at) => lessAtDepth(one, minus.depths[at])),
  };
}
