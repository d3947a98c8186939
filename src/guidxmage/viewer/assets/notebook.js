// The viewer in a notebook: arrays and questions go to the kernel as messages, and come back with
// their numbers as buffers.

import { mount } from "./viewer.js";

/**
 * @typedef {import("./types.js").Answer} Answer
 * @typedef {import("./types.js").Progress} Progress
 * @typedef {import("./types.js").Question} Question
 * @typedef {import("./types.js").Source} Source
 */

/**
 * @typedef {object} Model What a notebook gives a widget; of anywidget.
 * @property {(name: string) => any} get
 * @property {(content: object) => void} send
 * @property {(event: string, listener: (content: any, buffers: any[]) => void) => void} on
 * @property {(event: string, listener: (content: any, buffers: any[]) => void) => void} off
 */

/**
 * @typedef {object} Waiting Who waits for an answer from the kernel.
 * @property {(found: {message: any, buffers: ArrayBuffer[]}) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {(progress: Progress) => void} [onProgress]
 */

/** The kernel as the viewer's source. Several views of one widget hear each other's answers. */
class Kernel {
  /** @param {Model} model */
  constructor(model) {
    this.model = model;
    this.name = Math.random().toString(36).slice(2);
    this.count = 0;
    /** @type {Map<string, Waiting>} */
    this.waiting = new Map();
    this.listener = (/** @type {any} */ message, /** @type {any[]} */ buffers) => {
      this.hear(message, buffers ?? []);
    };
    model.on("msg:custom", this.listener);
  }

  /** @returns {Source} */
  source() {
    const manifest = this.model.get("manifest");
    const array = (/** @type {string} */ name) => this.array(name);
    return this.model.get("asks")
      ? { manifest, array, ask: (question, onProgress, signal) => this.ask(question, onProgress, signal) }
      : { manifest, array };
  }

  /**
   * @param {string} name
   * @returns {Promise<ArrayBuffer>}
   */
  async array(name) {
    const { buffers } = await this.post({ kind: "array", name });
    return buffers[0];
  }

  /**
   * @param {Question} question
   * @param {(progress: Progress) => void} [onProgress]
   * @param {AbortSignal} [signal]
   * @returns {Promise<Answer>}
   */
  async ask(question, onProgress, signal) {
    const { message, buffers } = await this.post({ kind: "ask", question }, onProgress, signal);
    const names = Object.keys(message.arrays);
    const array = async (/** @type {string} */ name) => {
      if (!names.includes(name)) throw new Error(`The answer has no array ${name}.`);
      return buffers[names.indexOf(name)];
    };
    return { ...message.answer, arrays: message.arrays, array };
  }

  /**
   * @param {object} content
   * @param {(progress: Progress) => void} [onProgress]
   * @param {AbortSignal} [signal]
   * @returns {Promise<{message: any, buffers: ArrayBuffer[]}>}
   */
  post(content, onProgress, signal) {
    this.count += 1;
    const id = `${this.name}-${this.count}`;
    return new Promise((resolve, reject) => {
      const cancel = () => {
        if (!this.waiting.delete(id)) return;
        this.model.send({ kind: "cancel", id });
        reject(new Error("Cancelled."));
      };
      if (signal?.aborted) {
        reject(new Error("Cancelled."));
        return;
      }
      signal?.addEventListener("abort", cancel);
      this.waiting.set(id, { resolve, reject, onProgress });
      this.model.send({ ...content, id });
    });
  }

  /**
   * @param {any} message
   * @param {any[]} buffers
   */
  hear(message, buffers) {
    const one = this.waiting.get(message.id);
    if (!one) return;
    if (message.kind === "progress") {
      one.onProgress?.({ text: message.text, fraction: message.fraction });
      return;
    }
    this.waiting.delete(message.id);
    if (message.kind === "failed") one.reject(new Error(message.error));
    else one.resolve({ message, buffers: buffers.map(wholeBuffer) });
  }

  close() {
    this.model.off("msg:custom", this.listener);
    for (const { reject } of this.waiting.values()) reject(new Error("The viewer was closed."));
    this.waiting.clear();
  }
}

/**
 * Notebooks give buffers as views into what came over the wire.
 * @param {ArrayBuffer | ArrayBufferView} buffer
 * @returns {ArrayBuffer}
 */
function wholeBuffer(buffer) {
  if (!ArrayBuffer.isView(buffer)) return buffer;
  const { buffer: wire, byteOffset, byteLength } = buffer;
  return /** @type {ArrayBuffer} */ (wire.slice(byteOffset, byteOffset + byteLength));
}

/**
 * Show a widget; what is returned takes it away again.
 * @param {{model: Model, el: HTMLElement}} view
 */
export function render({ model, el }) {
  const kernel = new Kernel(model);
  const viewer = mount(el, kernel.source(), { home: "notebook", url: false });
  return () => {
    viewer.destroy();
    kernel.close();
  };
}
