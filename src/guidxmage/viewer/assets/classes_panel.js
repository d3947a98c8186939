// Which class is explained: those that are there, one rather than another, or any other on demand.

import { Asking, needsNetwork } from "./asking.js";
import { fill, labelled, make, panel, pressable, sentenceOf } from "./dom.js";
import { briefly, exactly, inPercent } from "./words.js";

/** So many classes are listed at once: the best, or what was searched for. */
const LISTED = 5;

/** The panel of classes. */
export class ClassesPanel {
  /** @param {import("./bench.js").Bench} bench */
  constructor(bench) {
    this.bench = bench;
    this.asking = new Asking(bench, "explain");
    this.targets = make("div", {
      class: "gx-targets",
      role: "group",
      "aria-label": "Explained classes",
    });
    this.rather = make("select", {
      "data-gx": "rather",
      change: () => bench.store.set({ rather: Number(this.rather.value) }),
    });
    this.ratherField = labelled("rather than", this.rather);
    this.note = make("p", { class: "gx-hint" });
    this.query = make("input", {
      type: "search",
      autocomplete: "off",
      "data-gx": "class-search",
      input: () => this.list(),
    });
    this.found = make("ol", { class: "gx-class-list" });
    this.count = make("p", { class: "gx-hint", role: "status" });
    this.element = panel(
      bench.manifest.classes.length ? "Classes" : "What is explained",
      true,
      { "data-gx": "classes" },
      this.targets,
      this.ratherField,
      this.note,
      ...this.others(),
    );
    bench.store.watch(["target", "rather", "targets"], () => this.show());
    bench.store.watch(["targets"], () => this.list());
  }

  others() {
    if (!this.bench.manifest.classes.length) return [];
    const asks = this.asking.possible;
    return [
      make(
        "details",
        { class: "gx-inner", "data-gx": "other-classes", open: true },
        make("summary", {}, "All classes by their logits"),
        labelled("Search", this.query),
        this.found,
        this.count,
        asks ? this.asking.element : needsNetwork(this.bench, "To explain any other class", "explain"),
      ),
    ];
  }

  show() {
    const { scene, state, store } = this.bench;
    fill(
      this.targets,
      scene.targets.map(({ entry }, number) =>
        make(
          "button",
          {
            type: "button",
            class: "gx-target",
            "data-target": number,
            "data-key": number,
            "aria-pressed": String(number === state.target),
            click: () =>
              store.set({
                target: number,
                rather: state.rather === number ? -1 : this.bench.state.rather,
              }),
          },
          make("span", { class: "gx-target-name" }, entry.name),
          make("span", { class: "gx-target-score" }, briefly(entry.score, 4)),
          make("small", {}, inPercent(entry.probability) || entry.unit || ""),
        ),
      ),
    );
    this.ratherField.hidden = scene.targets.length < 2;
    fill(
      this.rather,
      make("option", { value: -1 }, "no other: its score alone"),
      scene.targets.map(({ entry }, number) =>
        number === state.target ? null : make("option", { value: number }, entry.name),
      ),
    );
    this.rather.value = String(state.rather);
    this.note.textContent =
      state.rather < 0
        ? ""
        : `${this.bench.subject.entry.name}: every number is that of the first class less that of ` +
          "the second, subtracted here. The differences add up to the difference of the scores.";
    this.note.hidden = state.rather < 0;
  }

  /** The best classes, or those whose names hold what is searched. */
  list() {
    const wanted = this.query.value.trim().toLowerCase();
    const matching = this.bench.manifest.classes
      .map(([index, name, logit], place) => ({ index, name, logit, place: place + 1 }))
      .filter(({ index, name }) => name.toLowerCase().includes(wanted) || String(index) === wanted);
    fill(
      this.found,
      matching.slice(0, LISTED).map((one) => this.classLine(one)),
    );
    const more = Math.max(0, matching.length - LISTED);
    this.count.textContent =
      matching.length === 0 ? "No class is called so." : more ? `and ${more} more` : "";
  }

  /** @param {{index: number, name: string, logit: number, place: number}} one */
  classLine({ index, name, logit, place }) {
    const { scene, store } = this.bench;
    const known = scene.targets.findIndex(
      ({ entry }) => entry.target === index && entry.against < 0,
    );
    const action =
      known >= 0
        ? pressable("Show", () => store.set({ target: known, rather: -1 }), {
            class: "gx-button gx-small",
            "data-key": index,
            "aria-label": `Show ${name}`,
          })
        : this.asking.possible
          ? pressable("Explain", () => void this.explain(index), {
              class: "gx-button gx-small",
              "data-key": index,
              "aria-label": `Explain ${name}`,
            })
          : null;
    return make(
      "li",
      { value: place },
      make("span", { class: "gx-class-name" }, name),
      make("span", { class: "gx-value" }, exactly(logit)),
      action,
    );
  }

  /** @param {number} index */
  async explain(index) {
    try {
      const answer = await this.asking.ask({ kind: "explain", target: index, against: -1 });
      if (answer?.kind === "explain") await this.add(answer);
    } catch (error) {
      this.asking.fail(sentenceOf(error));
    }
  }

  /** @param {import("./types.js").ExplainAnswer} answer */
  async add(answer) {
    const number = await this.bench.scene.addTarget(answer);
    this.bench.store.touch("targets");
    const { store, state } = this.bench;
    const { depths } = answer.entry;
    const other = depths.findIndex(Boolean);
    if (state.depth >= 0 && !depths[state.depth] && state.layers.whole.on) {
      if (other >= 0) store.set({ depth: other });
      else this.showPixels();
    }
    store.set({ target: number, rather: -1 });
    this.bench.speak(`${answer.entry.name} is shown.`);
  }

  /** Without maps at depths there is that of the pixels alone, which nothing may cover. */
  showPixels() {
    const { store } = this.bench;
    for (const name of ["whole", "result"]) store.setLayer(name, { on: false });
    store.setLayer("distribution", { on: true });
  }
}
