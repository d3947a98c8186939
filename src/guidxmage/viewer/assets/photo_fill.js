// Pixels of another photo that fill an area.

/**
 * The photo drawn so that it covers the picture; of it the part within a box, as a question has it.
 * @param {File} file
 * @param {[number, number, number, number]} box top, left, height, width
 * @param {number} height of the picture
 * @param {number} width
 * @returns {Promise<import("./types.js").PhotoFill>}
 */
export async function photoFill(file, box, height, width) {
  const photo = await createImageBitmap(file).catch(() => {
    throw new Error(`“${file.name}” is no photo that this browser can read.`);
  });
  const [top, left, tall, wide] = box;
  const canvas = document.createElement("canvas");
  canvas.width = wide;
  canvas.height = tall;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  if (!pen) throw new Error("This browser gives no canvas to draw the photo on.");
  const scale = Math.max(width / photo.width, height / photo.height);
  pen.imageSmoothingQuality = "high";
  // What is transparent would be black; on white it looks as photos do elsewhere.
  pen.fillStyle = "white";
  pen.fillRect(0, 0, wide, tall);
  pen.drawImage(
    photo,
    (width - photo.width * scale) / 2 - left,
    (height - photo.height * scale) / 2 - top,
    photo.width * scale,
    photo.height * scale,
  );
  photo.close();
  const { data } = pen.getImageData(0, 0, wide, tall);
  const rgb = new Uint8Array(3 * tall * wide);
  for (let at = 0, to = 0; at < data.length; at += 4, to += 3)
    rgb.set(data.subarray(at, at + 3), to);
  return { box, rgb: base64(rgb) };
}

/** @param {Uint8Array} bytes */
function base64(bytes) {
  const chunk = 0x8000; // as many arguments as every browser takes
  let text = "";
  for (let at = 0; at < bytes.length; at += chunk) {
    text += String.fromCharCode(...bytes.subarray(at, at + chunk));
  }
  return btoa(text);
}
