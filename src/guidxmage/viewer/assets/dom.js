// Elements are built by script alone: a page under a strict policy allows no styles or handlers
// in text, and names from a manifest must never be read as markup.

/**
 * @typedef {Node | string | number | null | undefined} Child
 * @typedef {Record<string, string | number | boolean | null | undefined
 *   | ((event: any) => void)>} Properties
 */

/**
 * An element. Functions listen to an event, true and false set or leave out an attribute.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Properties} [properties]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  fill(element, ...children);
  return element;
}

/**
 * Put children in the place of those that are there. If one with a data-key has the focus, the
 * new one with this key gets it: whoever works by keyboard must not be thrown back.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  const nodes = children.flat().filter((child) => child !== null && child !== undefined);
  const key = /** @type {HTMLElement | null} */ (element.querySelector("[data-key]:focus"))?.dataset
    .key;
  element.replaceChildren(
    ...nodes.map((child) =>
      typeof child === "number" ? String(child) : /** @type {Node | string} */ (child),
    ),
  );
  if (key === undefined) return;
  const again = element.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (again instanceof HTMLElement) again.focus();
}

/**
 * @param {string} words
 * @param {(event: Event) => void} onPress
 * @param {Properties} [properties]
 */
export function pressable(words, onPress, properties = {}) {
  return make(
    "button",
    { type: "button", class: "gx-button", click: onPress, ...properties },
    words,
  );
}

/**
 * A button that is one of several, of which one is pressed.
 * @param {HTMLElement} element
 * @param {boolean} pressed
 */
export function press(element, pressed) {
  element.setAttribute("aria-pressed", String(pressed));
}

/**
 * A section that can be folded.
 * @param {string} title
 * @param {boolean} open
 * @param {Properties} properties
 * @param {...(Child | Child[])} children
 */
export function panel(title, open, properties, ...children) {
  return make(
    "details",
    { class: "gx-panel", open, ...properties },
    make("summary", {}, make("h2", {}, title)),
    make("div", { class: "gx-panel-body" }, ...children),
  );
}

let lastNumber = 0;

/** An id that no other element of the page has. */
export function freshId() {
  lastNumber += 1;
  return `gx-${lastNumber}`;
}

/**
 * A labelled control; the label stands before it.
 * @param {string} words
 * @param {HTMLElement} control
 * @param {...(Child | Child[])} more
 */
export function labelled(words, control, ...more) {
  control.id = control.id || freshId();
  return make(
    "div",
    { class: "gx-field" },
    make("label", { for: control.id }, words),
    control,
    ...more,
  );
}

/**
 * @typedef {object} SliderOf
 * @property {number} min
 * @property {number} max
 * @property {number | "any"} step
 * @property {number} value
 * @property {string} label
 * @property {(value: number) => void} onInput
 */

/**
 * A range and a number that are one: the first to sweep with, the second to state a value.
 * @param {SliderOf} of
 * @param {Properties} [properties]
 */
export function dial(of, properties = {}) {
  const range = make("input", {
    type: "range",
    min: of.min,
    max: of.max,
    step: of.step,
    "aria-label": of.label,
    ...properties,
  });
  const number = make("input", {
    type: "number",
    min: of.min,
    max: of.max,
    step: of.step,
    class: "gx-number",
    "aria-label": `${of.label}, number`,
  });
  range.addEventListener("input", () => take(range));
  number.addEventListener("change", () => take(number));
  /** @param {HTMLInputElement} from */
  function take(from) {
    const value = Number(from.value);
    if (from.value === "" || !Number.isFinite(value)) return;
    of.onInput(Math.min(of.max, Math.max(of.min, value)));
  }
  /** @param {number} value */
  function show(value) {
    range.value = String(value);
    if (!number.matches(":focus")) number.value = String(Number(value.toPrecision(4)));
  }
  show(of.value);
  return { range, number, show };
}

/**
 * Choices of which one is taken, as radio buttons that look like one bar.
 * @param {string} legend
 * @param {[string, string][]} choices value and words
 * @param {(value: string) => void} onChoice
 * @param {Properties} [properties]
 */
export function choice(legend, choices, onChoice, properties = {}) {
  const name = freshId();
  const inputs = choices.map(([value]) =>
    make("input", {
      type: "radio",
      name,
      value,
      change: () => onChoice(value),
    }),
  );
  const field = make(
    "fieldset",
    { class: "gx-choice", ...properties },
    make("legend", {}, legend),
    ...inputs.map((input, number) =>
      make("label", {}, input, make("span", {}, choices[number][1])),
    ),
  );
  /** @param {string} value */
  function show(value) {
    for (const input of inputs) input.checked = input.value === value;
  }
  return { field, show };
}

/**
 * Hand a file to the reader of the page.
 * @param {Blob} blob
 * @param {string} name
 */
export function handOver(blob, name) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** @param {unknown} error */
export function sentenceOf(error) {
  const words = error instanceof Error ? error.message : String(error);
  return words || "Something went wrong, and nothing says what.";
}
