// The smallest perturbation inside an area that changes the network's answer.

import { toRuns } from "./areas.js";
import { areaSelect, askedTarget, questionPanel } from "./asking.js";
import { fill, labelled, make, pressable } from "./dom.js";
import { showPictures } from "./showing.js";
import { exactly } from "./words.js";

/** @type {[import("./types.js").Norm, string][]} */
const NORMS = [
  ["l2", "L2: its length"],
  ["linf", "L∞: its largest value"],
  ["l1", "L1: the sum of its values"],
  ["l0", "L0: how many values"],
];
/** Gradients, as the command line has by default. */
const BUDGET = 100;

/** @param {import("./bench.js").Bench} bench */
export function makeAttackPanel(bench) {
  const kind = /** @type {const} */ ("attack");
  const of = { title: "Attack this area", kind, open: false, needs: "To attack an area" };
  return questionPanel(bench, of, (asking) => {
    const area = areaSelect(bench, "the whole picture");
    const norm = make(
      "select",
      {},
      NORMS.map(([kind, words]) => make("option", { value: kind }, words)),
    );
    const budget = make("input", {
      type: "number",
      min: 1,
      max: 5000,
      step: 1,
      value: BUDGET,
      class: "gx-number",
    });
    const result = make("div", { class: "gx-result", "data-gx": "attack-result" });
    const attack = async () => {
      const mask = bench.areas.mask(area.value);
      if (area.value && !mask) throw new Error("This area is no longer there; choose another.");
      const answer = await asking.ask({
        kind: "attack",
        target: askedTarget(bench).number,
        area: mask && { runs: toRuns(mask) },
        norm: /** @type {import("./types.js").Norm} */ (norm.value),
        budget: Math.max(1, Math.round(Number(budget.value)) || BUDGET),
      });
      if (answer?.kind === "attack") await showAttacked(bench, result, answer);
    };
    const hint =
      "Search for the smallest change, only inside the area, that makes the network answer " +
      "differently.";
    return [
      make("p", { class: "gx-hint" }, hint),
      labelled("Area", area),
      labelled("Smallest by", norm),
      labelled("Gradients at most", budget),
      pressable("Attack", () => void asking.attempt(attack), { class: "gx-button gx-primary" }),
      asking.element,
      result,
    ];
  });
}

/**
 * @param {import("./bench.js").Bench} bench
 * @param {HTMLElement} element
 * @param {import("./types.js").AttackAnswer} answer
 */
async function showAttacked(bench, element, answer) {
  const line = (
    /** @type {string} */ words,
    /** @type {string} */ key,
    /** @type {string} */ value,
  ) =>
    make("tr", {}, make("th", { scope: "row" }, words), make("td", { "data-value": key }, value));
  const norms = Object.entries(answer.norms ?? {}).map(([name, value]) =>
    line(`size, ${name}`, `norm.${name}`, exactly(value)),
  );
  fill(
    element,
    make("p", { class: "gx-sentence" }, answer.sentence),
    answer.note ? make("p", {}, answer.note) : null,
    make(
      "table",
      { class: "gx-table gx-facts" },
      make(
        "tbody",
        {},
        line("answer before", "from", answer.from[1]),
        line("answer after", "to", answer.to ? answer.to[1] : "the same"),
        norms.length ? norms : line(`size, ${answer.norm}`, "size", exactly(answer.size)),
        line("margin", "margin", exactly(answer.margin)),
        line(
          "decisions flipped",
          "flipped",
          answer.flipped === null ? "not counted" : String(answer.flipped),
        ),
      ),
    ),
    answer.certificate ? make("p", { class: "gx-certificate" }, answer.certificate) : null,
    await showPictures(bench, answer),
  );
}
