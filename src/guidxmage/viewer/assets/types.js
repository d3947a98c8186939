// What the viewer is fed with, and what it can ask. Types only: nothing of this file runs.

/** @typedef {Float32Array | Float64Array | Uint8Array | Uint16Array | Int32Array} TypedArray */
/** @typedef {ArrayLike<number>} Numbers */

/** @typedef {{dtype: string, shape: number[]}} Described How the raw bytes of an array are read. */

/**
 * @typedef {object} TargetDepth The sums of the whole map of one target at one depth.
 * @property {number} whole_sum
 * @property {number | null} placed_bias_sum Null where whoever explained it does not say.
 * @property {number} unplaced
 * @property {[string, number][]} unplaced_by_layer
 * @property {number} residual
 * @property {number | null} residual_bound
 */

/**
 * @typedef {object} Target One explained score.
 * @property {string} name
 * @property {number} target
 * @property {number} against The class that it is compared with, -1 where there is none.
 * @property {number} score
 * @property {number | null} [probability]
 * @property {string} [unit] Of the score, where it has one.
 * @property {number} contribution_sum
 * @property {number} bias
 * @property {number} residual
 * @property {number | null} residual_bound Null where whoever explained it knows none.
 * @property {[string, number][]} bias_by_layer
 * @property {(TargetDepth | null)[]} depths In the order of the manifest's depths; null, or none,
 *   where the target has no map.
 */

/** @typedef {{site: string, grid: number[], stride: number, sigma: number}} Depth */

/** @typedef {{names: Record<string, string>, source?: string}} Objects */

/**
 * @typedef {object} Evidence
 * @property {string} [photo_sha256]
 * @property {Record<string, string>} [versions]
 * @property {Record<string, string>} [fingerprints]
 * @property {string[]} [certificate]
 * @property {string} [verify]
 * @property {number} [seconds]
 * @property {string} [digest]
 */

/**
 * @typedef {object} Manifest Everything about one photo but its arrays.
 * @property {string} format
 * @property {string} name
 * @property {string} network
 * @property {string} space
 * @property {string} reference
 * @property {string} exactness
 * @property {[number, number]} size Height and width.
 * @property {string[]} channels
 * @property {string} units
 * @property {Target[]} targets
 * @property {Depth[]} depths From the image to the last layer.
 * @property {number} depth The one shown first, -1 where there is none.
 * @property {[number, string, number][]} classes Index, name and logit, best first.
 * @property {Objects | null} objects
 * @property {Evidence} evidence
 * @property {Record<string, Described>} arrays
 */

/** @typedef {{runs: number[]}} AreaRuns */
/** @typedef {{box: [number, number, number, number], rgb: string}} PhotoFill */
/** @typedef {"zero" | "black" | "blur" | "photo"} Fill */
/** @typedef {"l2" | "linf" | "l1" | "l0"} Norm */

/** @typedef {{kind: "erase", target: number, area: AreaRuns, fill: Fill, photo?: PhotoFill}} EraseQuestion */
/** @typedef {{kind: "attack", target: number, area: AreaRuns | null, norm: Norm, budget?: number}} AttackQuestion */
/** @typedef {{kind: "explain", target: number, against: number}} ExplainQuestion */
/** @typedef {EraseQuestion | AttackQuestion | ExplainQuestion} Question */

/**
 * @typedef {object} AnswerArrays What every answer has beside its own numbers.
 * @property {Record<string, Described>} arrays
 * @property {(name: string) => Promise<ArrayBuffer>} array
 */

/**
 * @typedef {object} EraseNumbers
 * @property {"erase"} kind
 * @property {Fill} fill
 * @property {number} pixels
 * @property {number} before
 * @property {number} predicted
 * @property {number} after
 * @property {number} predicted_change
 * @property {number} real_change
 * @property {number} gap
 * @property {number | null} bound Null where whoever answers knows none.
 * @property {number | null} decisions Null where nobody counts them.
 * @property {number | null} flipped
 * @property {[string, number, number][]} flipped_by_layer
 * @property {[number, string]} answer_before
 * @property {[number, string]} answer_after
 * @property {string} sentence
 */

/**
 * @typedef {object} AttackNumbers
 * @property {"attack"} kind
 * @property {boolean} success
 * @property {string} note
 * @property {Norm} norm
 * @property {number} size
 * @property {Record<string, number>} norms
 * @property {[number, string]} from
 * @property {[number, string] | null} to
 * @property {number} margin
 * @property {number | null} flipped
 * @property {string | null} certificate
 * @property {string} sentence
 */

/** @typedef {{kind: "explain", number: number, entry: Target}} ExplainNumbers */

/** @typedef {EraseNumbers & AnswerArrays} EraseAnswer */
/** @typedef {AttackNumbers & AnswerArrays} AttackAnswer */
/** @typedef {ExplainNumbers & AnswerArrays} ExplainAnswer */
/** @typedef {EraseAnswer | AttackAnswer | ExplainAnswer} Answer */

/** @typedef {{text: string, fraction: number | null}} Progress */

/**
 * @typedef {object} Source Where the viewer has its data from, and whom it asks.
 * @property {Manifest} manifest
 * @property {(name: string) => Promise<ArrayBuffer>} array
 * @property {(question: Question, onProgress: (progress: Progress) => void, signal: AbortSignal) => Promise<Answer>} [ask]
 * @property {Question["kind"][]} [asks] What it can be asked; everything where this is left out.
 * @property {string} [instead] Where that cannot be asked: what to do, commands between backticks.
 */

/** @typedef {{home?: "page" | "report" | "notebook", url?: boolean}} MountOptions */

export {};
