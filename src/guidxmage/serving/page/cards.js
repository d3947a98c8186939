// The list of photos and results: one card each.

/**
 * @typedef {{id: string, name: string, state: string, origin: string, job: string | null,
 *   error: string | null, target?: string, network?: string, score?: number | null,
 *   residual?: number | null, object_share?: number | null,
 *   background_share?: number | null}} Entry
 * @typedef {{explain: (entry: Entry) => void, remove: (entry: Entry) => void}} Actions
 */

/**
 * An element with attributes and children; names are never read as markup.
 * @param {string} tag
 * @param {Record<string, any>} attributes
 * @param {...(Node | string | null)} children
 * @returns {HTMLElement}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== false) made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/**
 * @param {number | null | undefined} value
 * @param {number} digits
 */
function number(value, digits) {
  if (value === null || value === undefined) return "–";
  return value.toPrecision(digits).replace("-", "−");
}

/** @param {number | null | undefined} value */
function tiny(value) {
  return value ? value.toExponential(1).replaceAll("-", "−") : number(value, 2);
}

/** @param {number} share */
function percent(share) {
  return `${(100 * share).toFixed(0).replace("-", "−")} %`;
}

/** @param {Entry} entry */
function numbers(entry) {
  const lines = [];
  if (entry.target) {
    lines.push(element("p", { class: "gs-numbers" }, entry.target, " ",
      element("strong", {}, number(entry.score, 5))));
    lines.push(element("p", { class: "gs-numbers gs-quiet" },
      `residual ${tiny(entry.residual)}`));
  }
  if (typeof entry.object_share === "number" && typeof entry.background_share === "number") {
    lines.push(element("p", { class: "gs-numbers gs-quiet" },
      `objects ${percent(entry.object_share)}, background ${percent(entry.background_share)}`));
  }
  return lines;
}

/**
 * @param {Entry} entry
 * @param {Actions} actions
 */
export function card(entry, actions) {
  const ready = entry.state === "ready";
  const link = element("a", { href: `/?result=${encodeURIComponent(entry.id)}` }, entry.name);
  const buttons = element("div", { class: "gs-actions" });
  if (entry.state === "new" || entry.state === "failed") {
    buttons.append(element("button", {
      type: "button", class: "gs-button gs-small", "aria-label": `Explain ${entry.name}`,
      click: () => actions.explain(entry),
    }, "Explain"));
  }
  if (entry.state !== "working") {
    buttons.append(element("button", {
      type: "button", class: "gs-button gs-small", "aria-label": `Remove ${entry.name} from the list`,
      click: () => actions.remove(entry),
    }, "Remove"));
  }
  const words = { new: "not explained yet", working: "being explained …" };
  const state = /** @type {Record<string, string>} */ (words)[entry.state];
  return element("li", { class: "gs-card", "data-id": entry.id, "data-state": entry.state },
    element("img", {
      class: "gs-picture", alt: "", loading: "lazy",
      src: `/api/results/${encodeURIComponent(entry.id)}/thumbnail`,
    }),
    element("div", { class: "gs-card-body" },
      element("h3", {}, ready ? link : entry.name),
      ...numbers(entry),
      state ? element("p", { class: "gs-numbers gs-quiet" }, state) : null,
      entry.error ? element("p", { class: "gs-error" }, entry.error) : null,
      buttons));
}

/**
 * Bring the list up to date; cards that say the same stay, with the focus that may be on them.
 * @param {HTMLElement} list
 * @param {Entry[]} entries
 * @param {Actions} actions
 */
export function showCards(list, entries, actions) {
  /** @type {Map<string, HTMLElement>} */
  const there = new Map();
  for (const child of /** @type {HTMLCollectionOf<HTMLElement>} */ (list.children)) {
    there.set(child.dataset.id ?? "", child);
  }
  entries.forEach((entry, place) => {
    const known = there.get(entry.id);
    const text = JSON.stringify(entry);
    let shown = known;
    if (!known || known.dataset.told !== text) {
      shown = card(entry, actions);
      shown.dataset.told = text;
      const focused = known?.contains(document.activeElement);
      known?.replaceWith(shown);
      if (focused) /** @type {HTMLElement | null} */ (shown.querySelector("a, button"))?.focus();
    }
    there.delete(entry.id);
    if (shown && list.children[place] !== shown) list.insertBefore(shown, list.children[place]);
  });
  for (const gone of there.values()) gone.remove();
}
