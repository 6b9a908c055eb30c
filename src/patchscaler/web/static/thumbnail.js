// Small pictures for the list.

const SIDE = 192; // pixels

// Undefined where this browser can't show the format.
export async function thumbnailOf(blob) {
  try {
    return await createImageBitmap(blob, { resizeWidth: SIDE, resizeQuality: "medium" });
  } catch {
    return undefined;
  }
}

// Its middle, as large as fills the canvas.
export function drawThumbnail(canvas, thumbnail) {
  if (!thumbnail || canvas.drawn === thumbnail) return;
  canvas.drawn = thumbnail;
  const { width, height } = thumbnail;
  const scale = Math.max(canvas.width / width, canvas.height / height);
  const [x, y] = [(canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2];
  canvas.getContext("2d").drawImage(thumbnail, x, y, width * scale, height * scale);
}
