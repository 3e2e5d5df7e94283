// Masks as canvases, white where something is painted; and what is between two of them.
import { h } from "./dom.js";

/** Where a mask's middle is and how far it reaches; null without paint. */
function shapeOf(mask) {
  const { width, height } = mask;
  const { data } = mask.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, width, height);
  let count = 0;
  let sumX = 0;
  let sumY = 0;
  for (let at = 3; at < data.length; at += 4) {
    if (data[at] < 128) continue;
    const pixel = (at - 3) / 4;
    count += 1;
    sumX += pixel % width;
    sumY += Math.floor(pixel / width);
  }
  return count ? { x: sumX / count, y: sumY / count, reach: Math.sqrt(count), count } : null;
}

export function hasPaint(mask) {
  return shapeOf(mask) !== null;
}

export function isFull(mask) {
  return shapeOf(mask)?.count === mask.width * mask.height;
}

/**
 * The mask of a frame that has none of its own: the nearer neighbour's, moved and scaled along the line from one to the
 * other; before the first and after the last it stays. Null without any mask.
 */
export function between(masks, frame, width, height) {
  const frames = [...masks.keys()].sort((a, b) => a - b);
  const before = frames.filter((one) => one <= frame).at(-1);
  const after = frames.find((one) => one >= frame);
  if (before === undefined || after === undefined || before === after) return masks.get(before ?? after) ?? null;
  const [from, to] = [shapeOf(masks.get(before)), shapeOf(masks.get(after))];
  const share = (frame - before) / (after - before);
  const nearer = share < 0.5 ? masks.get(before) : masks.get(after);
  const own = share < 0.5 ? from : to;
  if (!from || !to) return nearer;
  const mix = (a, b) => a + (b - a) * share;
  const scale = mix(from.reach, to.reach) / own.reach;
  const made = h("canvas", { width, height });
  const pen = made.getContext("2d");
  pen.translate(mix(from.x, to.x), mix(from.y, to.y));
  pen.scale(scale, scale);
  pen.drawImage(nearer, -own.x, -own.y);
  return made;
}
