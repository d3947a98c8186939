// The arrays of one photo: read once, checked against what the manifest says, and kept.

/** @typedef {import("./types.js").Described} Described */
/** @typedef {import("./types.js").Source} Source */
/** @typedef {import("./types.js").TypedArray} TypedArray */

/** @type {Record<string, {new (buffer: ArrayBuffer): TypedArray, BYTES_PER_ELEMENT: number}>} */
const ARRAY_KINDS = {
  float32: Float32Array,
  float64: Float64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  int32: Int32Array,
};

/**
 * Raw bytes as an array of the described kind.
 * @param {string} name
 * @param {Described} described
 * @param {ArrayBuffer} buffer
 * @returns {TypedArray}
 */
export function readArray(name, described, buffer) {
  const Kind = Object.hasOwn(ARRAY_KINDS, described.dtype) ? ARRAY_KINDS[described.dtype] : null;
  if (Kind === null) {
    throw new Error(`The array “${name}” has the unknown type ${described.dtype}.`);
  }
  const expected = described.shape.reduce((product, side) => product * side, Kind.BYTES_PER_ELEMENT);
  if (buffer.byteLength !== expected) {
    throw new Error(
      `The array “${name}” has ${buffer.byteLength} bytes, but its shape ` +
        `${described.shape.join("×")} of ${described.dtype} needs ${expected}.`,
    );
  }
  return new Kind(buffer);
}

/** The arrays of a source, each fetched when it is first asked for. */
export class Arrays {
  /** @param {Source} source */
  constructor(source) {
    this.source = source;
    /** @type {Map<string, Promise<TypedArray>>} */
    this.known = new Map();
    /** @type {Map<string, Described>} */
    this.added = new Map();
  }

  /**
   * Whether there is an array of this name.
   * @param {string} name
   */
  has(name) {
    return this.added.has(name) || Object.hasOwn(this.source.manifest.arrays, name);
  }

  /**
   * How an array is described, or null where there is none.
   * @param {string} name
   * @returns {Described | null}
   */
  described(name) {
    const arrays = this.source.manifest.arrays;
    return this.added.get(name) ?? (Object.hasOwn(arrays, name) ? arrays[name] : null);
  }

  /**
   * The array of this name.
   * @param {string} name
   * @returns {Promise<TypedArray>}
   */
  get(name) {
    const known = this.known.get(name);
    if (known !== undefined) {
      return known;
    }
    const found = this.read(name);
    this.known.set(name, found);
    // What failed may be asked for again.
    found.catch(() => this.known.delete(name));
    return found;
  }

  /**
   * @param {string} name
   * @returns {Promise<TypedArray>}
   */
  async read(name) {
    const described = this.described(name);
    if (described === null) {
      throw new Error(`This explanation has no array “${name}”.`);
    }
    return readArray(name, described, await this.source.array(name));
  }

  /**
   * Put another array beside those of the source, such as one of an answer.
   * @param {string} name
   * @param {Described} described
   * @param {ArrayBuffer} buffer
   * @returns {TypedArray}
   */
  add(name, described, buffer) {
    const array = readArray(name, described, buffer);
    this.added.set(name, described);
    this.known.set(name, Promise.resolve(array));
    return array;
  }
}
