// Runs an ONNX file with onnxruntime-web, as a browser or a Node server does.
// node run_onnx.mjs FOLDER GRAPH IMAGES ROWS — FOLDER holds node_modules, IMAGES raw uint8 pixels of
// ROWS images, class 3 is explained; prints the outputs as JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, graph, images, rows] = process.argv.slice(2);
const require = createRequire(join(folder, "package.json"));
const ort = require("onnxruntime-web");
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(graph));
const count = Number(rows);
const pixels = new Uint8Array(readFileSync(images));
const side = Math.sqrt(pixels.length / count / 3);
const found = await session.run({
  images: new ort.Tensor("uint8", pixels, [count, 3, side, side]),
  class_index: new ort.Tensor("int64", new BigInt64Array(count).fill(3n), [count]),
});
const told = Object.fromEntries(
  Object.entries(found).map(([name, one]) => [
    name,
    { dims: one.dims, data: Array.from(one.data, Number) },
  ]),
);
process.stdout.write(JSON.stringify(told));
