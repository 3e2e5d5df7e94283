// Numbers in words, the same wherever they stand.
import { T, fill } from "./strings.js";

/** A number of bytes. */
export function bytesInWords(count) {
  let rest = count;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (rest < 1000) return `${Number(rest.toPrecision(3))} ${unit}`;
    rest /= 1000;
  }
  return `${Number(rest.toPrecision(3))} TB`;
}

/** Width and height as the API writes them. */
export function sizeInWords(size) {
  return size.replace("x", " × ");
}

/** How long a clip is. */
export function lengthInWords(seconds) {
  return `${Number(seconds).toFixed(2)} s`;
}

/** How long something takes or lasts. */
export function timeInWords(seconds) {
  const U = T.units;
  if (seconds < 90) return fill(U.seconds, { count: Math.ceil(seconds) });
  if (seconds < 2 * 3600) return fill(U.minutes, { count: Math.round(seconds / 60) });
  if (seconds < 2 * 86400) return fill(U.hours, { count: Math.round(seconds / 3600) });
  return fill(U.days, { count: Math.round(seconds / 86400) });
}

/** LoRAs with their weights. */
export function lorasInWords(loras) {
  return loras.map((lora) => `${lora.name} × ${lora.weight ?? 1}`).join(", ");
}
