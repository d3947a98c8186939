// Erase an area and check: what the explanation predicts beside what the network does.

import { toRuns } from "./areas.js";
import { areaSelect, askedTarget, questionPanel } from "./asking.js";
import { fill, labelled, make, pressable } from "./dom.js";
import { boxOf } from "./outlines.js";
import { showPictures } from "./showing.js";
import { photoFill } from "./photo_fill.js";
import { briefly, exactly, signed } from "./words.js";

/** @typedef {import("./types.js").EraseAnswer} EraseAnswer */

/** @type {[import("./types.js").Fill, string][]} */
const FILLS = [
  ["zero", "the network's zero"],
  ["black", "black"],
  ["blur", "blur"],
  ["photo", "another photo's pixels"],
];

/** @param {import("./bench.js").Bench} bench */
export function makeErasePanel(bench) {
  const of = {
    title: "Erase and check",
    kind: /** @type {const} */ ("erase"),
    open: true,
    needs: "To erase an area and check",
  };
  return questionPanel(bench, of, (asking) => {
    const area = areaSelect(bench, "");
    const { filling, file, fields } = fillFields(bench);
    const result = make("div", { class: "gx-result", "data-gx": "erase-result" });
    const erase = async () => {
      const mask = bench.areas.mask(area.value);
      if (!mask) throw new Error("Draw an area on the picture first.");
      const kind = /** @type {import("./types.js").Fill} */ (filling.value);
      const answer = await asking.ask(await questionOf(bench, mask, kind, file.files?.[0]));
      if (answer?.kind === "erase") await showErased(bench, result, answer, area.value);
    };
    const run = pressable("Erase and check", () => void asking.attempt(erase), {
      class: "gx-button gx-primary",
    });
    bench.store.watch(["areas"], () => {
      run.disabled = !bench.areas.list.length;
    });
    const hint =
      "Fill an area. The symbolic model keeps every decision of the network and predicts the " +
      "new score; the network itself then computes it.";
    return [
      make("p", { class: "gx-hint" }, hint),
      labelled("Area", area),
      ...fields,
      run,
      asking.element,
      result,
    ];
  });
}

/**
 * What an area is filled with; a photo is asked for only where it is needed.
 * @param {import("./bench.js").Bench} bench
 */
function fillFields(bench) {
  const kinds = FILLS.filter(([kind]) => kind !== "photo" || bench.scene.arrays.has("picture"));
  const filling = make(
    "select",
    {},
    kinds.map(([kind, words]) => make("option", { value: kind }, words)),
  );
  const file = make("input", { type: "file", accept: "image/*" });
  const photo = labelled("Photo", file);
  photo.hidden = true;
  filling.addEventListener("change", () => {
    photo.hidden = filling.value !== "photo";
  });
  return { filling, file, fields: [labelled("Fill with", filling), photo] };
}

/**
 * @param {import("./bench.js").Bench} bench
 * @param {Uint8Array} mask
 * @param {import("./types.js").Fill} filling
 * @param {File | undefined} file
 * @returns {Promise<import("./types.js").EraseQuestion>}
 */
async function questionOf(bench, mask, filling, file) {
  const { height, width } = bench.scene;
  const question = {
    kind: /** @type {const} */ ("erase"),
    target: askedTarget(bench).number,
    area: { runs: toRuns(mask) },
    fill: filling,
  };
  if (filling !== "photo") return question;
  if (!file) throw new Error("Choose a photo whose pixels fill the area.");
  const box = boxOf(mask, height, width);
  if (!box) throw new Error("The area holds no pixel.");
  return { ...question, photo: await photoFill(file, box, height, width) };
}

/**
 * @param {import("./bench.js").Bench} bench
 * @param {HTMLElement} element
 * @param {EraseAnswer} answer
 * @param {string} area
 */
async function showErased(bench, element, answer, area) {
  const line = (
    /** @type {string} */ words,
    /** @type {string} */ key,
    /** @type {string} */ value,
  ) =>
    make("tr", {}, make("th", { scope: "row" }, words), make("td", { "data-value": key }, value));
  fill(
    element,
    make("p", { class: "gx-sentence" }, answer.sentence),
    make("p", {}, `${area}: ${answer.pixels} pixels filled; target ${askedTarget(bench).name}.`),
    make(
      "table",
      { class: "gx-table gx-facts" },
      make(
        "tbody",
        {},
        line("score before", "before", exactly(answer.before)),
        line("after, predicted by the model", "predicted", exactly(answer.predicted)),
        line("after, by the network", "after", exactly(answer.after)),
        line("predicted change", "predicted_change", signed(answer.predicted_change)),
        line("real change", "real_change", signed(answer.real_change)),
        line("gap: network less model", "gap", signed(answer.gap)),
        answer.bound === null
          ? null
          : line("explained by rounding while nothing flips", "bound", `± ${briefly(answer.bound)}`),
        answer.flipped === null
          ? null
          : line("decisions flipped", "flipped", `${answer.flipped} of ${answer.decisions}`),
        line("answer before", "answer_before", answer.answer_before[1]),
        line("answer after", "answer_after", answer.answer_after[1]),
      ),
    ),
    answer.flipped === null ? null : flippedTable(answer),
    await showPictures(bench, answer),
  );
}

/** @param {EraseAnswer} answer */
function flippedTable(answer) {
  const layers = answer.flipped_by_layer.filter(([, flipped]) => flipped > 0);
  if (!layers.length) return make("p", { class: "gx-hint" }, "No decision flipped.");
  return make(
    "details",
    { class: "gx-inner" },
    make("summary", {}, `Flipped decisions in ${layers.length} layers`),
    make(
      "div",
      {
        class: "gx-scroll",
        tabindex: 0,
        role: "region",
        "aria-label": "Flipped decisions by layer",
      },
      make(
        "table",
        { class: "gx-table" },
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            ["layer", "flipped", "of"].map((words) => make("th", { scope: "col" }, words)),
          ),
        ),
        make(
          "tbody",
          {},
          layers.map(([site, flipped, of]) =>
            make(
              "tr",
              {},
              make("th", { scope: "row" }, site),
              make("td", {}, flipped),
              make("td", {}, of),
            ),
          ),
        ),
      ),
    ),
  );
}
