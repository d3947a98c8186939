// The network's graph beside the page, run in this browser: images go in, and logits and an
// explanation come out. One question at a time; a cancelled one ends the worker that works at it.

/**
 * @typedef {object} Geometry The network's preprocessing, as its file has it.
 * @property {number | [number, number] | null} resize
 * @property {number | [number, number] | null} crop
 * @property {number[]} mean
 * @property {number[]} std
 * @property {"bilinear" | "bicubic" | "nearest"} interpolation
 * @property {"even" | "down"} crop_starts
 *
 * @typedef {object} GraphAbout What a page is told of the graph beside it.
 * @property {string} folder
 * @property {boolean} runtime Whether onnxruntime-web is in the folder, too.
 * @property {string} model
 * @property {string} weights
 * @property {string} fingerprint Of the network's tensors.
 * @property {string} space
 * @property {[number, number, number]} shape
 * @property {string} reference
 * @property {number[] | null} colour What contributions are counted from, where it is a colour.
 * @property {string} exactness
 * @property {Geometry | null} preprocessing
 * @property {string[] | null} labels
 * @property {string[]} outputs
 * @property {import("./types.js").Depth | null} depth Of its whole map, where it has one.
 *
 * @typedef {object} GraphNumbers What the graph gives for an image and a class.
 * @property {Float32Array} logits
 * @property {Float32Array} contributions
 * @property {Float32Array | null} weights
 * @property {number} bias
 * @property {number | null} bound What rounding explains of what is left of either sum.
 * @property {Float64Array | null} whole
 * @property {number | null} unplaced What is not in `whole`.
 */

/** @typedef {(progress: import("./types.js").Progress) => void} OnProgress */

const RUNTIME_FILES = Object.freeze({
  runtime: "ort.wasm.min.mjs",
  glue: "ort-wasm-simd-threaded.mjs",
  wasm: "ort-wasm-simd-threaded.wasm",
  graph: "network.onnx",
});
const WORKER_FILE = "network_worker.js";
const CANCELLED = "Cancelled.";

/** A graph that is loaded when it is first asked. */
export class Graph {
  /** @param {GraphAbout} about */
  constructor(about) {
    this.about = about;
    /** @type {Promise<Worker> | null} */
    this.opened = null;
    /** The question that is worked at, behind which the next one waits. @type {Promise<unknown>} */
    this.before = Promise.resolve();
    this.count = 0;
  }

  /** Why it cannot be asked here, in a sentence or two; "" where it can. */
  get hindrance() {
    const page = decodeURIComponent(location.pathname.split("/").pop() ?? "");
    if (location.protocol === "file:") {
      return (
        "Browsers run no network for a page that is opened from disk. Run `python -m " +
        `http.server\` in its folder, and open http://localhost:8000/${page} instead.`
      );
    }
    return this.about.runtime
      ? ""
      : "This report was written without onnxruntime-web, which runs the network here. Run " +
          "`npm install onnxruntime-web`, and write the report again with " +
          "`--ort node_modules/onnxruntime-web/dist`.";
  }

  /** What a class is called. @param {number} index */
  nameOf(index) {
    return this.about.labels?.[index] || `class ${index}`;
  }

  /**
   * Run it on one image.
   * @param {Float32Array} image (C, H, W) of the explained space
   * @param {number} index the class that is explained; one that does not exist explains nothing
   * @param {OnProgress} onProgress
   * @param {AbortSignal} signal
   * @returns {Promise<GraphNumbers>}
   */
  async run(image, index, onProgress, signal) {
    const turn = this.before.then(() => this.ask(image, index, onProgress, signal));
    this.before = turn.catch(() => null);
    return turn;
  }

  /**
   * @param {Float32Array} image
   * @param {number} index
   * @param {OnProgress} onProgress
   * @param {AbortSignal} signal
   */
  async ask(image, index, onProgress, signal) {
    if (signal.aborted) throw new Error(CANCELLED);
    if (this.opened === null) onProgress({ text: "loading the network", fraction: null });
    this.opened ??= this.open(signal);
    const worker = await this.opened.catch((error) => {
      this.opened = null;
      throw error;
    });
    onProgress({ text: "running the network", fraction: null });
    const { shape, depth } = this.about;
    const known = ["logits", "contributions", "weights", "bias", "bound"];
    if (depth) known.push("whole", "unplaced");
    const outputs = known.filter((name) => this.about.outputs.includes(name));
    const found = await this.post(worker, { run: { images: image, shape, index, outputs } }, signal);
    if (![...found.logits].every(Number.isFinite)) {
      throw new Error("The network returns NaN or Inf for this picture.");
    }
    const { logits, contributions, weights = null, whole = null } = found;
    return {
      logits, contributions, weights, whole,
      bias: Number(found.bias[0]),
      bound: numberIn(found.bound),
      unplaced: numberIn(found.unplaced),
    };
  }

  /**
   * A worker that has the graph.
   * @param {AbortSignal} signal
   */
  async open(signal) {
    const address = (/** @type {string} */ file) =>
      new URL(`${encodeURIComponent(this.about.folder)}/${file}`, document.baseURI).href;
    const missing = new Error(
      `The network cannot be loaded; keep the folder ${this.about.folder} beside this page.`,
    );
    const response = await fetch(address(WORKER_FILE)).catch(() => null);
    if (!response?.ok) throw missing;
    const text = new Blob([await response.text()], { type: "text/javascript" });
    const own = URL.createObjectURL(text);
    const worker = new Worker(own, { type: "module" });
    const files = Object.entries(RUNTIME_FILES).map(([name, file]) => [name, address(file)]);
    try {
      await this.post(worker, { opening: Object.fromEntries(files) }, signal);
    } catch (error) {
      worker.terminate();
      if (signal.aborted) throw error;
      throw new Error(`${missing.message} ${error instanceof Error ? error.message : ""}`.trim());
    } finally {
      URL.revokeObjectURL(own);
    }
    return worker;
  }

  /**
   * @param {Worker} worker
   * @param {object} message
   * @param {AbortSignal} signal
   * @returns {Promise<any>}
   */
  post(worker, message, signal) {
    this.count += 1;
    const id = this.count;
    // Of a signal that was given before, no listener hears any more.
    if (signal.aborted) return Promise.reject(new Error(CANCELLED));
    return new Promise((resolve, reject) => {
      const over = new AbortController();
      const end = (/** @type {() => void} */ how) => {
        over.abort();
        how();
      };
      const listening = { signal: over.signal };
      worker.addEventListener(
        "message",
        ({ data }) => {
          if (data.id !== id) return;
          if (data.failed === undefined) end(() => resolve(data.found));
          else end(() => reject(new Error(`The network cannot be run here: ${data.failed}`)));
        },
        listening,
      );
      const broken = () => end(() => reject(new Error("The network cannot be run in this browser.")));
      worker.addEventListener("error", broken, listening);
      const cancel = () => {
        worker.terminate(); // nothing else ends what it is at
        this.opened = null;
        end(() => reject(new Error(CANCELLED)));
      };
      signal.addEventListener("abort", cancel, listening);
      worker.postMessage({ id, ...message });
    });
  }
}

/**
 * The one number of an output; null where there is none, or no finite one.
 * @param {ArrayLike<number> | undefined} values
 */
function numberIn(values) {
  const value = values ? Number(values[0]) : NaN;
  return Number.isFinite(value) ? value : null;
}
