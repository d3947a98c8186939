// Pointer, wheel and fingers on the stage.

/** A wheel's step in its unit: pixels, lines, pages. */
const WHEEL_UNITS = [1, 16, 320];
const WHEEL_RATE = 0.0016;

/** What pointers on the stage do. */
export class Pointing {
  /** @param {import("./stage.js").Stage} stage */
  constructor(stage) {
    this.stage = stage;
    this.bench = stage.bench;
    /** @type {Map<number, {left: number, top: number}>} */
    this.pointers = new Map();
    const { element } = stage;
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.up(event));
    element.addEventListener("pointercancel", (event) => this.lost(event));
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("dblclick", () => this.doubled());
    // The middle button moves the picture; browsers would scroll the page with it.
    element.addEventListener("mousedown", (event) => {
      if (event.button === 1) event.preventDefault();
    });
  }

  /** @param {{clientX: number, clientY: number}} event */
  place(event) {
    const box = this.stage.canvas.getBoundingClientRect();
    return { left: event.clientX - box.left, top: event.clientY - box.top };
  }

  /** @param {PointerEvent} event */
  down(event) {
    if (event.button > 1) return; // menus are the browser's
    const place = this.place(event);
    this.stage.element.focus({ preventScroll: true });
    this.stage.element.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, place);
    this.toCursor(place);
    if (this.pointers.size > 1) {
      this.stage.drawing?.cancel(); // a second finger means to zoom, not to draw
    } else if (event.button === 0) {
      this.stage.drawing?.begin(...this.bench.viewport.toPicture(place.left, place.top));
    }
  }

  /** @param {PointerEvent} event */
  move(event) {
    const place = this.place(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.toCursor(place);
      return;
    }
    if (this.pointers.size === 2) this.pinch(event.pointerId, before, place);
    else if (this.stage.drawing?.active) this.draw(event);
    else if (this.bench.state.tool === "move" || event.buttons === 4) {
      this.bench.viewport.pan(place.left - before.left, place.top - before.top);
      this.bench.store.touch("view");
    }
    this.pointers.set(event.pointerId, place);
  }

  /** @param {PointerEvent} event */
  draw(event) {
    // The browser hands over all points of a quick stroke at once.
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) {
      const { left, top } = this.place(one);
      this.stage.drawing?.extend(...this.bench.viewport.toPicture(left, top));
    }
    this.toCursor(this.place(event));
  }

  /**
   * @param {number} id
   * @param {{left: number, top: number}} before
   * @param {{left: number, top: number}} place
   */
  pinch(id, before, place) {
    const other = [...this.pointers].find(([number]) => number !== id)?.[1];
    if (!other) return;
    const { viewport, store } = this.bench;
    const apart = Math.hypot(before.left - other.left, before.top - other.top);
    const now = Math.hypot(place.left - other.left, place.top - other.top);
    viewport.pan((place.left - before.left) / 2, (place.top - before.top) / 2);
    if (apart > 0) {
      viewport.zoom(now / apart, (place.left + other.left) / 2, (place.top + other.top) / 2);
    }
    store.touch("view");
  }

  /** @param {PointerEvent} event */
  up(event) {
    this.pointers.delete(event.pointerId);
    this.stage.drawing?.finish();
  }

  /** @param {PointerEvent} event */
  lost(event) {
    this.pointers.delete(event.pointerId);
    this.stage.drawing?.cancel();
  }

  /** @param {WheelEvent} event */
  wheel(event) {
    const focused = this.stage.element.matches(":focus");
    // A notebook is scrolled with the wheel, so there it zooms only where it was asked to.
    if (this.bench.home === "notebook" && !focused && !event.ctrlKey) return;
    event.preventDefault();
    const { left, top } = this.place(event);
    const step = event.deltaY * WHEEL_UNITS[event.deltaMode] * (event.ctrlKey ? 4 : 1);
    this.bench.viewport.zoom(Math.exp(-step * WHEEL_RATE), left, top);
    this.bench.store.touch("view");
  }

  doubled() {
    if (this.bench.state.tool !== "move") return;
    this.bench.viewport.fit();
    this.bench.store.touch("view");
  }

  /** @param {{left: number, top: number}} place */
  toCursor(place) {
    const { viewport, store, scene } = this.bench;
    const [x, y] = viewport.toPicture(place.left, place.top).map(Math.floor);
    if (x < 0 || y < 0 || x >= scene.width || y >= scene.height) return;
    store.set({ row: y, column: x });
  }
}
