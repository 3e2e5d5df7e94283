// What can be done with a finished job, the same on its card and in the full view.
import { contentUrl, post } from "./api.js";
import { act, erase, start } from "./cards.js";
import { button, fillWith, h, labelled, panel } from "./dom.js";
import { promptOf } from "./face.js";
import { jobs } from "./jobs.js";
import { T, fill } from "./strings.js";

const G = T.gallery;
const MOST_COPIES = 64;

/** Marks a job, and tells everybody. */
const mark = (job, name, value) => act(() => post(`/v1/videos/${job.id}/${name === "binned" ? "bin" : name}`, { [name]: value }));

/** Has a job made again with other seeds, as often as is asked for. */
export function askCopies(job) {
  const count = h("input", { type: "number", min: 1, max: MOST_COPIES, value: 1, required: true });
  const form = h("form", {}, h("p", { class: "prompt", dir: "auto" }, promptOf(job)), labelled(G.copies, count), h("div", { class: "row end" }, h("button", { class: "main" }, G.again)));
  const box = panel(G.againTitle, {}, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const made = await act(() => post(`/v1/videos/${job.id}/copy?count=${Number(count.value)}`));
    if (!made) return;
    made.data.forEach((one) => jobs.take(one));
    box.close();
  });
  count.select();
}

/** Deletes a job after one question. */
function askDelete(job) {
  const box = panel(G.deleteTitle, {}, h("p", { class: "prompt", dir: "auto" }, promptOf(job)), h("p", {}, G.deleteText));
  const sure = () => { box.close(); erase(job); };
  const back = button(T.cancel, () => box.close());
  box.append(h("div", { class: "row end" }, back, button(G.delete, sure, { class: "main danger" })));
  back.focus();
}

/** Controls of a finished job. `flat`: all side by side, else the rarer ones in a menu; `close` is called before others open. */
export function menuOf(job, { flat = false, compare = null, details = null, close = () => {} } = {}) {
  const leading = (kind, text) => button(text, () => { close(); start(kind, job); });
  const erase = button(G.delete, () => { close(); askDelete(job); }, { class: "danger" });
  if (job.status === "failed") return [leading("use", G.reuse), details && button(G.details, details), erase];
  if (job.binned_at) return [button(G.restore, () => mark(job, "binned", false)), details && button(G.details, details), erase];
  const title = job.favourite ? G.unfavourite : G.favourite;
  const star = button(job.favourite ? "★" : "☆", () => mark(job, "favourite", !job.favourite), { class: "icon star", title, "aria-label": title, "aria-pressed": String(job.favourite) });
  const more = [
    leading("edit", G.edit),
    leading("loop", G.loop),
    button(G.againMany, () => { close(); askCopies(job); }),
    compare && button(G.compare, () => { close(); compare(); }),
    details && button(G.details, details),
    ["MP4", "GIF", "WebP"].map((name) => {
      const format = name.toLowerCase();
      return h("a", { class: "button", href: contentUrl(job, format === "mp4" ? "video" : format), download: `${job.id}.${format}` }, fill(G.download, { format: name }));
    }),
    button(G.toBin, () => { close(); mark(job, "binned", true); }),
  ];
  return [star, leading("use", G.reuse), leading("extend", G.extend), flat ? more : menu(more)];
}

/** A menu that a click elsewhere and Esc close. */
function menu(items) {
  const list = h("div", { class: "items" });
  const box = h("details", { class: "menu" }, h("summary", { "aria-label": G.more, title: G.more }, "⋯"), list);
  const close = () => {
    box.open = false;
    box.querySelector("summary").focus(); // which gets the focus back from a dialog that an item opens
  };
  const outside = (event) => {
    if (!box.contains(event.target)) box.open = false;
  };
  box.addEventListener("toggle", () => {
    if (!box.open) {
      removeEventListener("pointerdown", outside);
      return;
    }
    fillWith(list, items);
    addEventListener("pointerdown", outside);
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && box.open) close();
  });
  list.addEventListener("click", close, { capture: true });
  return box;
}
