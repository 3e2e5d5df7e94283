// A clip of JPEG pictures in an AVI file: the smallest container that a browser can write by hand.

function chunk(name, parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const head = new Uint8Array(8);
  head.set([...name].map((letter) => letter.charCodeAt(0)));
  new DataView(head.buffer).setUint32(4, length, true);
  return [head, ...parts, ...(length % 2 ? [new Uint8Array(1)] : [])];
}

function list(name, kind, parts) {
  return chunk(name, [Uint8Array.from([...kind].map((letter) => letter.charCodeAt(0))), ...parts]);
}

function numbers(values) {
  const bytes = new Uint8Array(values.length * 4);
  const view = new DataView(bytes.buffer);
  values.forEach((value, index) => {
    if (typeof value === "string") bytes.set([...value].map((letter) => letter.charCodeAt(0)), index * 4);
    else view.setUint32(index * 4, value, true);
  });
  return bytes;
}

/** An AVI file of JPEG pictures (Uint8Arrays) of one size, at a rate. */
export function aviOf(pictures, width, height, fps) {
  const largest = Math.max(...pictures.map((one) => one.length));
  const rate = Math.round(fps * 1000);
  const main = numbers([Math.round(1e6 / fps), largest * Math.ceil(fps), 0, 0x10, pictures.length, 0, 1, largest, width, height, 0, 0, 0, 0]);
  const stream = numbers(["vids", "MJPG", 0, 0, 0, 1000, rate, 0, pictures.length, largest, 0xffffffff, 0, 0, width | (height << 16)]);
  const format = numbers([40, width, height, 1 | (24 << 16), "MJPG", width * height * 3, 0, 0, 0, 0]);
  const frames = pictures.map((one) => chunk("00dc", [one]));
  let offset = 4;
  const index = frames.map((parts, at) => {
    const entry = ["00dc", 0x10, offset, pictures[at].length];
    offset += parts.reduce((sum, part) => sum + part.length, 0);
    return entry;
  });
  const header = list("LIST", "hdrl", [...chunk("avih", [main]), ...list("LIST", "strl", [...chunk("strh", [stream]), ...chunk("strf", [format])])]);
  return new Blob(list("RIFF", "AVI ", [...header, ...list("LIST", "movi", frames.flat()), ...chunk("idx1", [numbers(index.flat())])]), { type: "video/x-msvideo" });
}
