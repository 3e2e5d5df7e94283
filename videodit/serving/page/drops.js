// A clip of videodit, dropped anywhere on the page: its recipe is shown, as text alone.
import { call, post, upload } from "./api.js";
import { act, start } from "./cards.js";
import { button, fillWith, h, panel } from "./dom.js";
import { T, fill } from "./strings.js";
import { lorasInWords, sizeInWords } from "./words.js";

const D = T.drops;

const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

/** Has the whole page take clips, except where something else takes files. */
export function takeDrops() {
  const veil = h("div", { class: "veil", hidden: true }, D.veil);
  document.body.append(veil);
  let depth = 0;
  const show = (by) => {
    depth = Math.max(0, depth + by);
    veil.hidden = depth === 0 || document.querySelector("dialog[open]") !== null;
  };
  addEventListener("dragenter", (event) => hasFiles(event) && show(1));
  addEventListener("dragleave", (event) => hasFiles(event) && show(-1));
  addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
    veil.classList.toggle("aside", event.target.closest?.(".drop") !== null);
  });
  addEventListener("drop", (event) => {
    depth = 0;
    veil.hidden = true;
    if (event.defaultPrevented || !hasFiles(event)) return;
    event.preventDefault(); // else the browser leaves the page
    const clip = [...event.dataTransfer.files].find((file) => file.type.startsWith("video/") || /\.mp4$/i.test(file.name));
    if (clip) readRecipe(clip);
  });
}

/** Has a clip chosen, for who cannot drag. */
export function chooseRecipe() {
  const chooser = h("input", { type: "file", accept: "video/mp4,.mp4" });
  chooser.addEventListener("change", () => chooser.files[0] && readRecipe(chooser.files[0]));
  chooser.click();
}

/** Shows how a clip was made. The file itself is not kept on the server. */
async function readRecipe(file) {
  const found = h("div", { class: "recipe", role: "status" }, h("p", {}, fill(D.reading, { name: file.name })));
  const box = panel(D.title, {}, found);
  const sent = await act(() => upload(file));
  const told = sent && (await act(() => post("/v1/recipes", { video: { id: sent.id } })));
  if (sent) call("DELETE", `/v1/uploads/${sent.id}`).catch(() => {});
  if (!told) {
    fillWith(found, h("p", {}, fill(D.none, { name: file.name })));
    return;
  }
  const use = button(T.gallery.reuse, () => {
    box.close();
    start("use", { request: told.request, seed: told.request.seed });
  }, { class: "main" });
  fillWith(
    found,
    told.notices.map((notice) => h("p", { class: "notice" }, notice)),
    h("dl", {}, rowsOf(told.request)),
    h("details", {}, h("summary", {}, D.whole), h("pre", {}, JSON.stringify(told.recipe, null, 2))),
    h("div", { class: "row end" }, use),
  );
  use.focus();
}

function rowsOf(request) {
  return Object.entries(request).filter(([, value]) => value !== "").map(([name, value]) => [
    h("dt", {}, D.fields[name] ?? name.replaceAll("_", " ")),
    h("dd", { dir: "auto" }, inWords(name, value)),
  ]);
}

function inWords(name, value) {
  if (name === "size") return sizeInWords(value);
  if (name === "lora") return lorasInWords(value);
  if (name === "storyboard") return value.map((scene) => `${scene.at} s: ${scene.prompt}`).join("\n");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
