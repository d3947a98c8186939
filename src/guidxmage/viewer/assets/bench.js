// What every part of one viewer works with.

import { Areas } from "./areas.js";
import { make } from "./dom.js";
import { Painter } from "./painter.js";
import { Scene } from "./scene.js";
import { firstState, Store } from "./state.js";
import { Viewport } from "./viewport.js";

/** The scene, the state, the areas and the door to whoever answers questions. */
export class Bench {
  /**
   * @param {import("./types.js").Source} source
   * @param {import("./types.js").MountOptions} options
   */
  constructor(source, options) {
    this.source = source;
    this.home = options.home ?? "page";
    this.scene = new Scene(source);
    this.store = new Store(firstState(source.manifest));
    this.areas = new Areas(this.scene.pixels);
    this.viewport = new Viewport(this.scene.height, this.scene.width);
    this.painter = new Painter(this);
    /** Ends with the viewer: whoever listens beyond its element listens with it. */
    this.life = new AbortController();
    this.voice = make("div", { class: "gx-heard", "aria-live": "polite", "data-gx": "spoken" });
    this.notice = make("p", { class: "gx-notice", role: "status", hidden: true });
  }

  get state() {
    return this.store.state;
  }

  get manifest() {
    return this.source.manifest;
  }

  /** What is looked at. */
  get subject() {
    return this.scene.subject(this.state.target, this.state.rather);
  }

  /**
   * Say something to those who listen to the page.
   * @param {string} sentence
   */
  speak(sentence) {
    this.voice.textContent = sentence;
  }

  /**
   * Show a sentence to everybody; an empty one takes it away.
   * @param {string} sentence
   */
  tell(sentence) {
    this.notice.textContent = sentence;
    this.notice.hidden = sentence === "";
  }
}
