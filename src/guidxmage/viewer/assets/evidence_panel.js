// Why one may believe the numbers, and how to check them oneself.

import { fill, make, panel, pressable } from "./dom.js";
import { briefly, exactly } from "./words.js";

/** @param {import("./bench.js").Bench} bench */
export function makeEvidencePanel(bench) {
  const { manifest, store } = bench;
  const { evidence } = manifest;
  const sums = make("dl", { class: "gx-facts" });
  store.watch(["target", "rather", "depth"], () => {
    const { entry } = bench.subject;
    const at = entry.depths[bench.state.depth];
    fill(
      sums,
      fact("score", exactly(entry.score)),
      fact("Σ A + bias", `${exactly(entry.contribution_sum)} + ${exactly(entry.bias)}`),
      fact("residual", briefly(entry.residual)),
      entry.residual_bound === null ? null : fact("its bound", briefly(entry.residual_bound)),
      at
        ? fact(
            "residual at this depth",
            at.residual_bound === null
              ? briefly(at.residual)
              : `${briefly(at.residual)}, bound ${briefly(at.residual_bound)}`,
          )
        : null,
      fact("exactness", manifest.exactness),
      fact("reference", manifest.reference),
      fact("explained space", `${manifest.space}, values ${manifest.units}`),
    );
  });
  return panel(
    "Evidence",
    false,
    { "data-gx": "evidence" },
    sums,
    certificateOf(evidence.certificate),
    verifyOf(evidence.verify),
    hashesOf(evidence),
    biasTable(bench),
  );
}

/**
 * @param {string} words
 * @param {string} value
 */
function fact(words, value) {
  return make("div", {}, make("dt", {}, words), make("dd", {}, value));
}

/** @param {string[] | undefined} lines */
function certificateOf(lines) {
  return lines?.length
    ? make(
        "div",
        {},
        make("h3", {}, "Certificate"),
        make(
          "ul",
          { class: "gx-certificate" },
          lines.map((line) => make("li", {}, line)),
        ),
      )
    : null;
}

/** @param {string | undefined} command */
function verifyOf(command) {
  if (!command) return null;
  const copy = pressable(
    "Copy",
    async () => {
      try {
        await navigator.clipboard.writeText(command);
        copy.textContent = "Copied";
      } catch {
        // Without leave to write, the command is at least selected.
        getSelection()?.selectAllChildren(code);
        copy.textContent = "Selected";
      }
      setTimeout(() => {
        copy.textContent = "Copy";
      }, 2000);
    },
    { class: "gx-button gx-small", "aria-label": "Copy the command" },
  );
  const code = make("code", { "data-value": "verify" }, command);
  return make(
    "div",
    {},
    make("h3", {}, "Check it yourself"),
    make("div", { class: "gx-command" }, code, copy),
  );
}

/** @param {import("./types.js").Evidence} evidence */
function hashesOf(evidence) {
  const facts = [];
  if (evidence.photo_sha256) facts.push(fact("photo, SHA-256", evidence.photo_sha256));
  if (evidence.digest) facts.push(fact("digest", evidence.digest));
  for (const [name, value] of Object.entries(evidence.fingerprints ?? {}))
    facts.push(fact(name, value));
  for (const [name, value] of Object.entries(evidence.versions ?? {}))
    facts.push(fact(name, value));
  if (typeof evidence.seconds === "number")
    facts.push(fact("computed in", `${briefly(evidence.seconds)} s`));
  return facts.length ? make("dl", { class: "gx-facts gx-hashes" }, facts) : null;
}

/**
 * Where the bias comes from, layer by layer.
 * @param {import("./bench.js").Bench} bench
 */
function biasTable(bench) {
  const body = make("tbody");
  const element = make(
    "details",
    { class: "gx-inner gx-bias" },
    make("summary", {}, "Bias by layer"),
    make(
      "div",
      { class: "gx-scroll", tabindex: 0, role: "region", "aria-label": "Bias by layer" },
      make(
        "table",
        { class: "gx-table" },
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            make("th", { scope: "col" }, "layer"),
            make("th", { scope: "col" }, "bias"),
          ),
        ),
        body,
      ),
    ),
  );
  bench.store.watch(["target", "rather"], () => {
    const { bias_by_layer: layers } = bench.subject.entry;
    element.hidden = !layers.length; // a graph does not say
    fill(
      body,
      layers.map(([site, value]) =>
        make("tr", {}, make("th", { scope: "row" }, site), make("td", {}, exactly(value))),
      ),
    );
  });
  return element;
}
