// Pictures and clips that a clip starts from: sent as soon as they are chosen, so that the plan knows them.
import { call, contentUrl, get, upload } from "./api.js";
import { button, fillWith, h, labelled, panel, tell } from "./dom.js";
import { promptOf } from "./face.js";
import { icon } from "./icons.js";
import { jobs } from "./jobs.js";
import { read, write } from "./kept.js";
import { T, fill } from "./strings.js";
import { lengthInWords, sizeInWords } from "./words.js";

const S = T.media;
const THUMBS = "videodit-thumbs";
const MOST_THUMBS = 30;
const THUMB_SIDE = 192;
const ACCEPTED = { picture: "image/*", clip: "video/*", any: "video/*,image/*" };

let counter = 0;

/** A clip of the server as something to start from. */
function sourceOf(job) {
  const { width, height, fps } = job.settings;
  return { id: job.id, kind: "clip", name: promptOf(job) || job.id, width, height, fps, num_frames: Math.round(Number(job.seconds) * fps), url: contentUrl(job), thumb: contentUrl(job, "thumbnail"), prompt: job.prompt };
}

/** The prompt that a clip was made from, by the recipe in it: a text of anyone. */
function promptIn(sent) {
  try {
    const { prompt } = JSON.parse(sent.recipe);
    return typeof prompt === "string" && prompt ? prompt : null;
  } catch {
    return null;
  }
}

/** A small picture of what is shown, kept in this browser: the server gives uploads to nobody. */
function keepThumb(id, shown, width, height) {
  const scale = Math.min(1, THUMB_SIDE / Math.max(width, height));
  const canvas = h("canvas", { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) });
  canvas.getContext("2d").drawImage(shown, 0, 0, canvas.width, canvas.height);
  const others = read(THUMBS, []).filter(([one]) => one !== id);
  write(THUMBS, [[id, canvas.toDataURL("image/jpeg", 0.7)], ...others].slice(0, MOST_THUMBS));
}

/** A place for a picture or a clip: dropped, chosen, pasted, or one of the clips that are here. */
export class MediaPicker {
  /** `kind` is picture, clip or any of both; `onChange` is called when there is another, or none. */
  constructor(title, kind, onChange) {
    this.title = title;
    this.kind = kind;
    this.onChange = onChange;
    this.source = null;
    this.turn = 0;
    this.chooser = h("input", { type: "file", accept: ACCEPTED[kind], class: "hidden", tabindex: -1, "aria-hidden": "true" });
    const id = `media${++counter}`;
    this.label = h("span", { class: "label", id }, title);
    this.hint = S.drops[kind];
    this.zone = h("button", { type: "button", class: "drop", id: `${id}z`, "aria-labelledby": `${id} ${id}z` }, h("span", {}, this.hint));
    this.state = h("small", { class: "reason", role: "status", hidden: true });
    this.remove = button(S.remove, () => { this.set(null); this.zone.focus(); }, { class: "quiet", hidden: true, "aria-label": `${S.remove}: ${title}` });
    this.own = kind !== "picture" ? button(S.own, () => this.chooseOwn(), { class: "quiet" }) : null;
    this.element = h("div", { class: "field media" }, this.label, this.zone, this.chooser, h("div", { class: "actions" }, this.own, this.remove), this.state);
    this.zone.addEventListener("click", () => this.chooser.click());
    this.chooser.addEventListener("change", () => this.chooser.files[0] && this.take(this.chooser.files[0]));
    for (const event of ["dragenter", "dragover"]) {
      this.zone.addEventListener(event, (drag) => {
        drag.preventDefault();
        this.zone.classList.add("over");
      });
    }
    this.zone.addEventListener("dragleave", () => this.zone.classList.remove("over"));
    this.zone.addEventListener("drop", (drop) => {
      drop.preventDefault();
      this.zone.classList.remove("over");
      const file = drop.dataTransfer.files[0];
      if (file && !this.zone.disabled) this.take(file);
    });
  }

  /** What a request says of it. */
  get reference() {
    return this.source ? { id: this.source.id } : undefined;
  }

  /** Another title, such as that of a place further up. */
  rename(title) {
    this.title = title;
    this.label.textContent = title;
    this.remove.setAttribute("aria-label", `${S.remove}: ${title}`);
  }

  say(text, bad = false) {
    tell(this.state, text);
    this.state.classList.toggle("bad", bad);
  }

  /** Sends a file, and has it once it is sent. */
  async take(file) {
    const turn = ++this.turn;
    this.chooser.value = "";
    this.set(null, true);
    this.say(fill(S.sending, { name: file.name || this.title }));
    const url = URL.createObjectURL(file);
    this.sending = (async () => {
      try {
        const sent = await upload(file);
        if (turn !== this.turn) return;
        if (this.kind !== "any" && sent.kind !== this.kind) throw new Error(this.kind === "clip" ? S.notClip : S.notPicture);
        this.say("");
        this.set({ ...sent, name: file.name || this.title, prompt: promptIn(sent), url, local: true });
      } catch (error) {
        if (turn !== this.turn) return;
        URL.revokeObjectURL(url);
        this.say(error.message, true);
      }
    })();
    return this.sending;
  }

  /** Shows a source, or none; `quiet` tells nobody. */
  set(source, quiet = false) {
    if (!quiet) this.turn += 1;
    if (this.source?.local) URL.revokeObjectURL(this.source.url);
    this.source = source;
    this.remove.hidden = !source;
    if (!source) {
      fillWith(this.zone, h("span", {}, this.hint));
      if (!quiet) this.say("");
    } else this.show(source);
    if (!quiet) this.onChange();
  }

  show(source) {
    const about = h("small", {}, this.about(source));
    const thumb = source.thumb ?? read(THUMBS, []).find(([id]) => id === source.id)?.[1];
    if (source.url && source.kind === "picture") {
      const image = h("img", { src: source.url, alt: "" });
      image.addEventListener("load", () => keepThumb(source.id, image, image.naturalWidth, image.naturalHeight), { once: true });
      fillWith(this.zone, image, about);
    } else if (source.local) {
      const video = h("video", { src: source.url, playsinline: true, preload: "auto", tabindex: -1, "aria-hidden": "true" });
      video.muted = true;
      video.addEventListener("loadeddata", () => keepThumb(source.id, video, video.videoWidth, video.videoHeight), { once: true });
      fillWith(this.zone, video, about);
    } else fillWith(this.zone, thumb ? h("img", { src: thumb, alt: "" }) : null, about);
  }

  about({ name, width, height, num_frames: frames, fps }) {
    const size = width && sizeInWords(`${width}x${height}`);
    const long = frames && fps && lengthInWords(frames / fps);
    return [name, size, long].filter(Boolean).join(", ");
  }

  /** Says why it cannot be used, or that it can. */
  allow(reason) {
    this.zone.disabled = Boolean(reason);
    if (this.own) this.own.disabled = Boolean(reason);
    if (reason && this.source) this.set(null);
    if (reason || this.refused) this.say(reason);
    this.refused = Boolean(reason);
  }

  /** Shows what a request names, where it is still there. */
  async restore(reference) {
    if (!reference) return this.set(null);
    const turn = ++this.turn;
    try {
      const id = encodeURIComponent(reference.id);
      let source = null;
      if (reference.id.startsWith("video")) source = sourceOf(jobs.byId.get(reference.id) ?? (await get(`/v1/videos/${id}`)));
      else {
        const sent = await call("GET", `/v1/uploads/${id}`);
        source = { ...sent, prompt: promptIn(sent) };
      }
      if (turn === this.turn) this.set(source);
    } catch {
      if (turn !== this.turn) return undefined;
      this.set(null);
      this.say(fill(S.gone, { title: this.title }), true);
    }
    return undefined;
  }

  chooseOwn() {
    const done = jobs.finished().filter((job) => job.status === "completed").slice(0, 60);
    const box = panel(
      S.own, {},
      done.length
        ? h("div", { class: "choices" }, done.map((job) => h("button", { type: "button", class: "choice", on: { click: () => { this.set(sourceOf(job)); box.close(); } } }, h("img", { src: contentUrl(job, "thumbnail"), alt: "" }), h("span", { dir: "auto" }, promptOf(job) || job.id))))
        : h("p", { class: "empty" }, S.ownNone),
    );
  }
}

/** Pictures that the clip has at certain times. */
export class KeyFrames {
  constructor(onChange) {
    this.onChange = onChange;
    this.rows = [];
    this.list = h("div", { class: "list" });
    this.add = button(S.addFrame, () => { this.append().picker.zone.focus(); }, {});
    this.reason = h("small", { class: "reason", hidden: true });
    this.element = h("div", { class: "key-frames" }, this.list, this.add, this.reason);
  }

  append(seconds = "", strength = 1) {
    const row = {};
    row.picker = new MediaPicker(fill(S.frame, { number: this.rows.length + 1 }), "picture", this.onChange);
    row.seconds = h("input", { type: "number", step: "any", value: seconds, inputmode: "decimal" });
    row.strength = h("input", { type: "number", min: 0.05, max: 1, step: 0.05, value: strength });
    const remove = h("button", { type: "button", class: "icon quiet", title: S.removeFrame, "aria-label": S.removeFrame, on: { click: () => this.drop(row) } }, icon("remove"));
    row.element = h("div", { class: "key-frame" }, row.picker.element, h("div", { class: "row" }, labelled(S.at, row.seconds), labelled(S.strength, row.strength), remove));
    this.rows.push(row);
    this.list.append(row.element);
    return row;
  }

  drop(row) {
    this.rows = this.rows.filter((one) => one !== row);
    row.picker.set(null, true);
    row.element.remove();
    this.add.focus();
    this.onChange();
  }

  /** Conditions of a request, at a rate. */
  fields(fps) {
    return this.rows
      .filter((row) => row.picker.source)
      .map((row) => {
        const strength = Number(row.strength.value);
        return { kind: "frames", content: row.picker.reference, at: Math.round(Number(row.seconds.value || 0) * fps), ...(strength > 0 && strength < 1 ? { strength } : {}) };
      });
  }

  put(conditions, fps) {
    for (const row of this.rows) row.element.remove();
    this.rows = [];
    return Promise.all(conditions.map((one) => this.append(+(one.at / fps).toFixed(4), one.strength ?? 1).picker.restore(one.content)));
  }

  allow(reason) {
    this.add.disabled = Boolean(reason);
    tell(this.reason, reason);
    if (reason && this.rows.length) this.put([], 1);
  }

  get pickers() {
    return this.rows.map((row) => row.picker);
  }
}
