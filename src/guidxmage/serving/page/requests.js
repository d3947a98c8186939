// Requests to the server that this page came from; errors are sentences.

/** The server does not answer at all: it was stopped, or the connection is gone. */
export class GoneError extends Error {}

/** The server answered with a sentence. */
export class RefusedError extends Error {
  /**
   * @param {string} sentence
   * @param {number} status
   */
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
export async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new GoneError("The server does not answer.");
  }
  if (response.ok) return response;
  let sentence = `The server answered with ${response.status}.`;
  try {
    const found = await response.json();
    if (typeof found.error === "string") sentence = found.error;
  } catch {
    // No JSON: the status has to do.
  }
  throw new RefusedError(sentence, response.status);
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export async function ask(path, options) {
  const response = await send(path, options);
  try {
    return await response.json();
  } catch {
    throw new GoneError("The connection was closed.");
  }
}

/**
 * @param {string} path
 * @param {any} document
 */
export function post(path, document) {
  const headers = { "content-type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(document) });
}

/**
 * The bytes of an array.
 * @param {string} path
 * @returns {Promise<ArrayBuffer>}
 */
export async function bytes(path) {
  const response = await send(path);
  try {
    return await response.arrayBuffer();
  } catch {
    throw new GoneError("The connection was closed.");
  }
}

/** @param {number} milliseconds */
export function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
