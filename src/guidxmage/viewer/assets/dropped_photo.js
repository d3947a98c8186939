// A photo of the reader's, explained by the graph beside the page: dropped on the page or chosen.

import { worded } from "./asking.js";
import { fill, make, pressable, sentenceOf } from "./dom.js";
import { arraysOf, entryOf, namedArrays } from "./graph_answers.js";
import { decoded, inputOf, seenPart } from "./photo_input.js";

/**
 * @typedef {import("./graph.js").Graph} Graph
 * @typedef {import("./types.js").Source} Source
 */

const COLOUR_NAMES = ["red", "green", "blue"];
const LONGEST_NAME = 200;
const SCENE_FORMAT = "guid-xmage/scene/1";

/**
 * The explanation of a photo's best class, as the viewer takes it.
 * @param {File} file
 * @param {Graph} graph
 * @param {import("./graph.js").OnProgress} onProgress
 * @param {AbortSignal} signal
 * @returns {Promise<Source>}
 */
export async function explainedPhoto(file, graph, onProgress, signal) {
  const { preprocessing, space, shape } = graph.about;
  if (!preprocessing || ![1, 3].includes(shape[0])) {
    throw new Error("How a photo becomes this network's input is not known.");
  }
  onProgress({ text: "reading the photo", fraction: null });
  const seen = seenPart(await decoded(file), preprocessing);
  const [channels, height, width] = shape;
  if (seen.height !== height || seen.width !== width) {
    throw new Error(
      `The network takes photos of ${width}×${height} pixels, and this one is ` +
        `${seen.width}×${seen.height}.`,
    );
  }
  const X = inputOf(seen, preprocessing, space);
  const { logits } = await graph.run(X, -1, onProgress, signal);
  const best = logits.indexOf(Math.max(...logits));
  const found = await graph.run(X, best, onProgress, signal);
  const depths = found.whole && graph.about.depth ? [graph.about.depth] : [];
  const entry = entryOf(graph, found, best, depths);
  const { arrays, array } = arraysOf({
    picture: [rgbOf(seen), [height, width, 3]],
    input: [X, shape],
    ...namedArrays(graph, found, { X, entry, number: 0 }),
  });
  return {
    manifest: {
      format: SCENE_FORMAT,
      name: file.name.slice(0, LONGEST_NAME),
      network: graph.about.weights ? `${graph.about.model} (${graph.about.weights})` : graph.about.model,
      space,
      reference: graph.about.reference,
      exactness: graph.about.exactness,
      size: [height, width],
      channels: channels === 3 ? COLOUR_NAMES : ["grey"],
      units: space === "input" ? "normalised" : "0–1",
      targets: [entry],
      depths,
      depth: depths.length - 1,
      classes: classesOf(graph, logits),
      objects: null,
      evidence: {},
      arrays,
    },
    array,
  };
}

/**
 * @param {Graph} graph
 * @param {Float32Array} logits
 * @returns {[number, string, number][]} best first
 */
function classesOf(graph, logits) {
  return Array.from(logits, (logit, index) =>
    /** @type {[number, string, number]} */ ([index, graph.nameOf(index), logit]),
  ).sort((a, b) => b[2] - a[2]);
}

/** @param {import("./resampling.js").Bytes} seen */
function rgbOf({ data, channels }) {
  if (channels === 3) return data;
  return Uint8Array.from({ length: 3 * data.length }, (_, at) => data[Math.floor(at / 3)]);
}

/** Where a photo is chosen or dropped; it tells how far its explanation has come. */
export class DropPanel {
  /**
   * @param {Graph} graph
   * @param {(source: Source) => void} onExplained
   */
  constructor(graph, onExplained) {
    this.graph = graph;
    this.onExplained = onExplained;
    this.life = new AbortController();
    /** @type {AbortController | null} */
    this.control = null;
    this.file = make("input", {
      type: "file", accept: "image/*", id: "gx-report-photo", "data-gx": "report-photo",
      change: () => this.take(this.file.files?.[0]),
    });
    this.words = make("span", { role: "status" });
    this.running = make("div", { class: "gx-running", hidden: true },
      make("progress", { "aria-label": "Progress" }), this.words,
      pressable("Cancel", () => this.control?.abort(), { class: "gx-button gx-small" }));
    this.error = make("p", { class: "gx-error", role: "alert", hidden: true });
    const hint =
      "It stays in this browser, which explains it by the network beside this page. Numbers may " +
      "differ a little from Python's: resizing and decoding may leave a pixel one grey level off.";
    const { hindrance } = graph;
    this.element = make("section", { class: "gx-report-drop", "data-gx": "report-drop" },
      ...(hindrance
        ? [make("p", {}, "To explain other photos here needs the network. ", worded(hindrance))]
        : [make("label", { for: "gx-report-photo" }, "Explain another photo: drop it on this page, or choose"),
          this.file, make("p", { class: "gx-hint" }, hint), this.running, this.error]));
    if (!hindrance) this.listen();
  }

  listen() {
    const drag = (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      this.element.classList.toggle("gx-report-over", event.type === "dragover");
    };
    // Anywhere on the page: beside the panel a photo would be opened in the page's place.
    const { signal } = this.life;
    document.addEventListener("dragover", drag, { signal });
    document.addEventListener("dragleave", drag, { signal });
    document.addEventListener(
      "drop",
      (event) => {
        drag(event);
        void this.take(event.dataTransfer?.files[0]);
      },
      { signal },
    );
  }

  /** @param {File | undefined} file */
  async take(file) {
    if (!file) return;
    this.control?.abort();
    const control = new AbortController();
    this.control = control;
    const current = () => this.control === control;
    this.running.hidden = false;
    this.fail("");
    try {
      const progress = (/** @type {import("./types.js").Progress} */ { text }) => {
        if (current()) fill(this.words, text);
      };
      const source = await explainedPhoto(file, this.graph, progress, control.signal);
      if (current() && !control.signal.aborted) this.onExplained(source);
    } catch (error) {
      if (current() && !this.life.signal.aborted) this.fail(sentenceOf(error));
    } finally {
      if (current()) {
        this.control = null;
        this.running.hidden = true;
        this.file.value = "";
      }
    }
  }

  /** Nobody waits any more. */
  leave() {
    this.life.abort();
    this.control?.abort();
  }

  /** @param {string} sentence */
  fail(sentence) {
    this.error.textContent = sentence;
    this.error.hidden = sentence === "";
  }
}
