// The server's API. Nothing here that a script could not do.
import { T, fill } from "./strings.js";

class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? fill(T.errors.status, { status }));
    this.status = status;
    this.code = error?.code ?? null;
    this.param = error?.param ?? null;
  }
}

/** Sends a request and gives the JSON of its answer. */
export async function call(method, path, body, options = {}) {
  const settings = { method, headers: {}, credentials: "same-origin", ...options };
  if (body instanceof FormData) settings.body = body;
  else if (body !== undefined) {
    settings.body = JSON.stringify(body);
    settings.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, settings);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: T.errors.offline });
  }
  const values = await answer.json().catch(() => null);
  if (answer.ok) return values;
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("needs-key"));
  throw new ApiError(answer.status, values?.error);
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body, options) => call("POST", path, body, options);

/** Sends a file; gives its upload. */
export function upload(file) {
  const form = new FormData();
  form.append("file", file);
  return call("POST", "/v1/uploads", form);
}

/** The address of a clip's file. */
export function contentUrl(job, variant = "video") {
  return `/v1/videos/${encodeURIComponent(job.id)}/content?variant=${variant}`;
}

/** The address of a running clip's preview; it changes with each new one. */
export function previewUrl(job) {
  return `/v1/videos/${encodeURIComponent(job.id)}/preview?n=${job.preview}`;
}
