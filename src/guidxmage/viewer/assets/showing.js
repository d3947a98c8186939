// The pictures that an answer brings become layers of the stage, to be compared with the photo.

import { readArray } from "./arrays.js";
import { make, press, pressable } from "./dom.js";

/**
 * Put the pictures of an answer on the stage; what turns them on and off, or null without any.
 * @param {import("./bench.js").Bench} bench
 * @param {import("./types.js").Answer} answer
 */
export async function showPictures(bench, answer) {
  const get = async (/** @type {string} */ name) =>
    Object.hasOwn(answer.arrays, name)
      ? readArray(name, answer.arrays[name], await answer.array(name))
      : null;
  const picture = /** @type {Uint8Array | null} */ (await get("picture"));
  const delta = await get("delta");
  if (!picture && !delta) return null;
  const { painter, store, state } = bench;
  painter.take({ picture, delta });
  const off = { on: false, opacity: 1 };
  store.set({
    layers: { ...state.layers, perturbation: off, result: { ...off, on: picture !== null } },
  });
  store.touch("answers");
  const { number } = painter.answers;
  const over = new AbortController();
  const element = make(
    "div",
    { class: "gx-buttons" },
    picture ? toggleFor(bench, "result", "Show the changed picture", over.signal) : null,
    delta ? toggleFor(bench, "perturbation", "Show the perturbation", over.signal) : null,
  );
  store.watch(
    ["answers"],
    () => {
      if (painter.answers.number === number) return;
      element.hidden = true; // the layers belong to a later answer now
      over.abort();
    },
    over.signal,
  );
  return element;
}

/**
 * @param {import("./bench.js").Bench} bench
 * @param {string} name
 * @param {string} words
 * @param {AbortSignal} until
 */
function toggleFor(bench, name, words, until) {
  const { store } = bench;
  const button = pressable(
    words,
    () => store.setLayer(name, { on: !bench.state.layers[name].on, opacity: 1 }),
    { class: "gx-button gx-small" },
  );
  store.watch(["layers"], () => press(button, bench.state.layers[name].on), until);
  return button;
}
