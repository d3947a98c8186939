// The data of a report's photos: in the page itself, or in files beside it that a script loads.
// A page from disk can fetch nothing, but it may run a script that hands over what it has.

/** @typedef {import("./types.js").Manifest} Manifest */

/**
 * @typedef {object} ReportLine What the index has of one photo.
 * @property {string} id
 * @property {string} key Of its data.
 * @property {string} name
 * @property {string} result
 * @property {string} network
 * @property {string} target
 * @property {number} targets
 * @property {number | null} score
 * @property {number | null} residual
 * @property {number | null} residual_bound
 * @property {number | null} object_share
 * @property {number | null} background_share
 * @property {string | null} thumbnail
 *
 * @typedef {{title: string, data: string | null,
 *   network: import("./graph.js").GraphAbout | null}} ReportAbout
 * @typedef {{manifest: Manifest, arrays: Record<string, string>}} PackedPhoto
 * @typedef {(id: string, key: string, photo: PackedPhoto) => void} Taker
 */

/**
 * What is written in the page under an id.
 * @param {string} id
 */
export function writtenIn(id) {
  const element = document.getElementById(id);
  return element === null ? null : JSON.parse(element.textContent ?? "");
}

/**
 * The packed data of one photo.
 * @param {ReportLine} line
 * @param {string | null} folder Of the data, null where it is in the page.
 * @returns {Promise<PackedPhoto>}
 */
export function packedPhoto(line, folder) {
  if (folder !== null) return loadedPhoto(line, folder);
  const found = writtenIn(`gx-photo-${line.id}`);
  return found === null
    ? Promise.reject(new Error(`This report has lost the data of ${line.name}.`))
    : Promise.resolve(found);
}

/**
 * @param {ReportLine} line
 * @param {string} folder
 * @returns {Promise<PackedPhoto>}
 */
function loadedPhoto(line, folder) {
  const file = `${folder}/${line.id}.js`;
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const holder = /** @type {{guidXmageData?: Taker}} */ (window);
    /** @type {PackedPhoto | null} */
    let taken = null;
    let key = "";
    holder.guidXmageData = (id, its, photo) => {
      if (id === line.id) [taken, key] = [photo, its];
    };
    script.onload = () => {
      script.remove();
      if (taken === null) reject(new Error(`The file ${file} does not hold the data of ${line.name}.`));
      else if (key !== line.key) {
        reject(new Error(`The file ${file} belongs to another report; make this one again.`));
      } else resolve(taken);
    };
    script.onerror = () => {
      script.remove();
      reject(new Error(`The file ${file} cannot be read; keep the folder ${folder} beside this page.`));
    };
    script.src = `${encodeURIComponent(folder)}/${line.id}.js`;
    document.head.append(script);
  });
}

/**
 * What the viewer is fed with: arrays are unpacked when they are asked for.
 * @param {PackedPhoto} photo
 * @returns {import("./types.js").Source}
 */
export function sourceOf(photo) {
  return {
    manifest: photo.manifest,
    array: async (name) => {
      if (!Object.hasOwn(photo.arrays, name)) {
        throw new Error(`This report has no array “${name}” of ${photo.manifest.name}.`);
      }
      return unpacked(photo.arrays[name]);
    },
  };
}

/**
 * @param {string} text Base64 of what gzip has packed.
 * @returns {Promise<ArrayBuffer>}
 */
async function unpacked(text) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot unpack the report's data; open it in a newer one.");
  }
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i += 1) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}
