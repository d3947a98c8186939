// On paper nothing can be unfolded, so what is folded is opened for as long as the print takes.

/**
 * @param {import("./bench.js").Bench} bench
 * @param {HTMLElement} root
 */
export function openForPrint(bench, root) {
  const { signal } = bench.life;
  /** @type {HTMLDetailsElement[]} */
  let opened = [];
  window.addEventListener(
    "beforeprint",
    () => {
      opened = [...root.querySelectorAll("details")].filter((one) => !one.open);
      for (const one of opened) one.open = true;
    },
    { signal },
  );
  window.addEventListener(
    "afterprint",
    () => {
      for (const one of opened) one.open = false;
      opened = [];
    },
    { signal },
  );
}
