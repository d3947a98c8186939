// What stands behind a photo's numbers in a report, and how anybody can check it.

import { make, pressable } from "./dom.js";
import { format6 } from "./numbers.js";

/**
 * @typedef {import("./types.js").Manifest} Manifest
 * @typedef {import("./types.js").Target} Target
 */

/**
 * The evidence of one photo.
 * @param {Manifest} manifest
 * @param {string} result Where the result is, as seen from the report.
 */
export function evidenceOf(manifest, result) {
  const evidence = manifest.evidence;
  return make("section", { class: "gx-report-evidence", "aria-label": "Evidence", "data-gx": "evidence" },
    make("h2", {}, "Evidence"),
    make("p", {}, `The explanation is ${manifest.exactness}. A residual within its bound is what `
      + "rounding leaves of a sum that is exact."),
    sumsTable(manifest),
    (evidence.certificate ?? []).map((line) => make("p", { class: "gx-report-line" }, line)),
    facts(manifest, result),
    evidence.verify ? command(evidence.verify) : null);
}

/** @param {Manifest} manifest */
function sumsTable(manifest) {
  const rows = manifest.targets.flatMap((target) => [
    sumRow(target.name, "pixels", [target.score, target.contribution_sum, target.bias],
      target.residual, target.residual_bound),
    ...target.depths.map((found, number) => sumRow(
      target.name, `whole map, ${depthWords(manifest, number)}`,
      [target.score, found.whole_sum, found.unplaced], found.residual, found.residual_bound)),
  ]);
  const heads = ["Explained", "Of", "Score", "= on the picture", "+ bias or no place", "+ residual",
    "Bound"];
  return make("div", { class: "gx-report-scroll" },
    make("table", { class: "gx-report-table gx-report-sums" },
      make("thead", {}, make("tr", {}, heads.map((words, number) =>
        make("th", { scope: "col", class: number > 1 ? "gx-report-number" : null }, words)))),
      make("tbody", {}, rows)));
}

/**
 * @param {string} name
 * @param {string} of
 * @param {(number | null)[]} sums
 * @param {number | null} residual
 * @param {number | null} bound
 */
function sumRow(name, of, sums, residual, bound) {
  return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, of),
    [...sums, residual, bound].map((value) =>
      make("td", { class: "gx-report-number" }, value === null ? "–" : format6(value))));
}

/**
 * @param {Manifest} manifest
 * @param {number} number
 */
function depthWords(manifest, number) {
  const { site, stride } = manifest.depths[number];
  return site === "input" ? "at the pixels" : `at stride ${format6(stride)} (${site})`;
}

/**
 * @param {Manifest} manifest
 * @param {string} result
 */
function facts(manifest, result) {
  const evidence = manifest.evidence;
  const hashes = Object.entries(evidence.fingerprints ?? {}).filter(([, value]) => value);
  const versions = Object.entries(evidence.versions ?? {}).map(([name, value]) => `${name} ${value}`);
  /** @type {[string, string | null | undefined][]} */
  const pairs = [
    ["Network", manifest.network],
    ["Reference", manifest.reference],
    ["Result", result],
    ["SHA-256 of the photo", evidence.photo_sha256],
    ...hashes.map(([name, value]) => /** @type {[string, string]} */ ([`SHA-256 of the ${name}`, value])),
    ["SHA-256 of the result", evidence.digest],
    ["Made with", versions.join(", ")],
    ["Explained in", evidence.seconds === undefined ? null : `${format6(evidence.seconds)} s`],
  ];
  return make("dl", { class: "gx-report-facts" }, pairs.flatMap(([words, value]) =>
    (value ? [make("dt", {}, words), make("dd", {}, value)] : [])));
}

/** @param {string} words */
function command(words) {
  const button = pressable("Copy", async () => {
    try {
      await navigator.clipboard.writeText(words);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select the line and copy it";
    }
  });
  return make("div", { class: "gx-report-verify" },
    make("p", {}, "From the folder where the report was made, this computes everything again from "
      + "the photo and the network and says whether it is the same:"),
    make("code", { "data-gx": "verify" }, words), button);
}
