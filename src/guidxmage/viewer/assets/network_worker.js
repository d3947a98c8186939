// Runs the graph of a network in a worker, so that the page stays quick meanwhile. The page makes
// the worker of this text, and the page's own policy holds in it.

/**
 * @typedef {object} Opening What a graph is opened by: addresses.
 * @property {string} runtime
 * @property {string} glue
 * @property {string} wasm
 * @property {string} graph
 *
 * @typedef {object} Run One image, and the class that is explained.
 * @property {Float32Array} images
 * @property {number[]} shape
 * @property {number} index
 * @property {string[]} outputs
 */

/** @type {any} */
let runtime = null;
/** @type {any} */
let session = null;

/** @param {Opening} from */
async function openSession(from) {
  // It is the user's own onnxruntime-web, known only when the page is open.
  const loading = import(from.runtime);
  runtime = await loading;
  runtime.env.logLevel = "error";
  // More threads need headers that a plain server does not send.
  runtime.env.wasm.numThreads = 1;
  runtime.env.wasm.wasmPaths = { mjs: from.glue, wasm: from.wasm };
  const response = await fetch(from.graph);
  if (!response.ok) throw new Error(`the graph cannot be read (${response.status})`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  session = await runtime.InferenceSession.create(bytes, {
    executionProviders: ["wasm"],
    logSeverityLevel: 3,
  });
}

/** @param {Run} asked */
async function runSession({ images, shape, index, outputs }) {
  const feeds = {
    images: new runtime.Tensor("float32", images, [1, ...shape]),
    class_index: new runtime.Tensor("int64", BigInt64Array.of(BigInt(index)), [1]),
  };
  const found = await session.run(feeds, outputs);
  return Object.fromEntries(outputs.map((name) => [name, found[name].data.slice()]));
}

self.addEventListener("message", async (event) => {
  const { id, opening, run } = event.data;
  try {
    if (opening) await openSession(opening);
    self.postMessage({ id, found: run ? await runSession(run) : {} });
  } catch (error) {
    self.postMessage({ id, failed: error instanceof Error ? error.message : String(error) });
  }
});

export {};
