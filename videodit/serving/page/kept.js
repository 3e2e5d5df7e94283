// What this browser remembers between visits.

/** A remembered value; `fallback` where there is none. */
export function read(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? fallback;
  } catch {
    return fallback;
  }
}

/** Remembers a value; a full or forbidden storage only forgets. */
export function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // nothing depends on it
  }
}
