// Work on the server: followed until it ends, and cancelled.

import { ask, bytes, GoneError, pause, post, RefusedError } from "./requests.js";

const BETWEEN = 250;

/**
 * @typedef {{text: string, fraction: number | null}} Progress
 * @typedef {{state: string, place: number, text: string, fraction: number | null,
 *   error?: string, answer?: any, result?: string, title: string}} Told
 */

/**
 * How far it is, in words.
 * @param {Told} told
 * @returns {Progress}
 */
export function progressOf(told) {
  if (told.state === "waiting") {
    const before = told.place === 1 ? "1 piece of work" : `${told.place} pieces of work`;
    return { text: told.place ? `waiting for ${before}` : "waiting", fraction: null };
  }
  return { text: told.text, fraction: told.fraction };
}

/**
 * Follow work until it ends; a server that is away for a moment is waited for.
 * @param {string} job
 * @param {(told: Told) => void} onTold
 * @param {AbortSignal} [signal]
 * @returns {Promise<Told>}
 */
export async function follow(job, onTold, signal) {
  let away = 0;
  for (;;) {
    if (signal?.aborted) {
      await cancel(job);
      throw new Error("It was cancelled.");
    }
    try {
      const told = await ask(`/api/jobs/${job}`);
      away = 0;
      onTold(told);
      if (!["waiting", "running"].includes(told.state)) return told;
    } catch (error) {
      away += 1;
      if (!(error instanceof GoneError) || away > 20) throw error;
      await pause(1000);
    }
    await pause(BETWEEN);
  }
}

/** @param {string} job */
export async function cancel(job) {
  try {
    await ask(`/api/jobs/${job}`, { method: "DELETE" });
  } catch (error) {
    if (!(error instanceof RefusedError) && !(error instanceof GoneError)) throw error;
  }
}

/**
 * What the viewer is fed with: the manifest and arrays of a result, and answers to questions.
 * @param {string} id
 * @param {any} manifest
 */
export function sourceOf(id, manifest) {
  const place = `/api/results/${encodeURIComponent(id)}`;
  return {
    manifest,
    /** @param {string} name */
    array: (name) => bytes(`${place}/arrays/${encodeURIComponent(name)}`),
    /**
     * @param {any} question
     * @param {(progress: Progress) => void} [onProgress]
     * @param {AbortSignal} [signal]
     */
    ask: async (question, onProgress, signal) => {
      const { job } = await post(`${place}/questions`, question);
      const told = await follow(job, (now) => onProgress?.(progressOf(now)), signal);
      if (told.state !== "done") throw new Error(told.error ?? "There is no answer.");
      const own = `/api/jobs/${encodeURIComponent(job)}/arrays`;
      return {
        ...told.answer,
        /** @param {string} name */
        array: (name) => bytes(`${own}/${encodeURIComponent(name)}`),
      };
    },
  };
}
