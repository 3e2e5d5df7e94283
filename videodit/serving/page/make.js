// The form: everything a clip can be asked for, with what the server's plan says while one types.
import { call, get, upload } from "./api.js";
import { act } from "./cards.js";
import { button, fillWith, h, labelled, say } from "./dom.js";
import { jobs } from "./jobs.js";
import { T, fill } from "./strings.js";

const KEEP = "videodit-make";
const HISTORY = "videodit-history";
const M = T.make;

function read(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? fallback;
  } catch {
    return fallback;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // a full or forbidden storage only forgets
  }
}

function number(step, min, placeholder = M.ownValue) {
  return h("input", { type: "number", step, min, placeholder, inputmode: "decimal" });
}

/** The model's own size, the same upright and lying, and a square, as the model can make them. */
function sizesOf(model) {
  const own = model.defaults.size;
  if (model.sizes.only) return [own];
  const [width, height] = own.split("x").map(Number);
  const snapped = (value, step) => Math.max(step, Math.round(value / step) * step);
  const side = Math.sqrt(width * height);
  const shapes = [[width, height], [height, width], [side, side], [side * 1.29, side * 0.775], [side * 0.775, side * 1.29]];
  return [...new Set(shapes.map(([w, h]) => `${snapped(w, model.sizes.width_step)}x${snapped(h, model.sizes.height_step)}`))];
}

/** A place for a picture: dropped, chosen or pasted. */
class DropZone {
  constructor(title, accept, onChange) {
    this.title = title;
    this.onChange = onChange;
    this.file = null;
    this.reference = null;
    this.chooser = h("input", { type: "file", accept, class: "hidden", tabindex: -1, "aria-hidden": "true" });
    this.shown = h("span", {}, M.drop);
    this.zone = h("button", { type: "button", class: "drop", "aria-label": `${title}. ${M.drop}` }, this.shown);
    this.reason = h("small", { class: "reason", hidden: true });
    this.remove = button(M.remove, () => this.set(null), { class: "quiet", hidden: true });
    this.element = h("div", { class: "field" }, h("span", { class: "label" }, title), this.zone, this.chooser, this.remove, this.reason);
    this.zone.addEventListener("click", () => this.chooser.click());
    this.chooser.addEventListener("change", () => this.set(this.chooser.files[0] ?? null));
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
      if (drop.dataTransfer.files[0] && !this.zone.disabled) this.set(drop.dataTransfer.files[0]);
    });
  }

  set(file) {
    if (this.url) URL.revokeObjectURL(this.url);
    this.file = file;
    this.reference = null;
    this.url = file ? URL.createObjectURL(file) : null;
    this.chooser.value = "";
    this.remove.hidden = !file;
    if (!file) fillWith(this.zone, this.shown);
    else if (file.type.startsWith("video/")) fillWith(this.zone, h("video", { src: this.url, muted: true, "aria-label": file.name }));
    else fillWith(this.zone, h("img", { src: this.url, alt: file.name }));
    this.onChange();
  }

  /** Says why it cannot be used, or that it can. */
  allow(reason) {
    this.zone.disabled = Boolean(reason);
    this.reason.textContent = reason ?? "";
    this.reason.hidden = !reason;
    if (reason && this.file) this.set(null);
  }

  /** The upload's reference, once the file is sent. */
  async send() {
    if (!this.file) return undefined;
    this.reference ??= { id: (await upload(this.file)).id };
    return this.reference;
  }
}

export class Make {
  constructor() {
    this.lastSeed = read("videodit-last-seed", null);
    this.models = [];
    this.build();
    this.restore();
  }

  build() {
    this.prompt = h("textarea", { rows: 3, placeholder: M.promptPlaceholder, maxlength: 20000, "aria-describedby": "plan" });
    this.hints = h("div", { class: "hints", "aria-live": "polite" });
    this.history = h("datalist", { id: "history" });
    this.negative = h("textarea", { rows: 1, maxlength: 20000 });
    this.model = h("select");
    this.size = h("select");
    this.width = number(1, 1);
    this.height = number(1, 1);
    this.custom = h("div", { class: "row", hidden: true }, labelled(M.width, this.width), labelled(M.height, this.height));
    this.seconds = number("any", 0);
    this.seed = h("input", { type: "text", inputmode: "numeric", pattern: "[0-9]*", placeholder: M.seedRandom });
    this.steps = number(1, 1);
    this.guidance = number("any", 0);
    this.accelerate = h("select", {}, ...["", "lossless", "balanced", "fast"].map((name) => h("option", { value: name }, name || M.accelerateNone)));
    this.loop = h("input", { type: "checkbox" });
    this.loopReason = h("small", { class: "reason", hidden: true });
    this.count = h("input", { type: "number", min: 1, max: 16, value: 1 });
    this.loras = h("div", { class: "loras" });
    const changed = () => this.changed();
    this.first = new DropZone(M.first, "image/*", changed);
    this.last = new DropZone(M.last, "image/*", changed);
    this.plan = h("div", { id: "plan", class: "plan", "aria-live": "polite" });
    this.go = h("button", { type: "submit", class: "main", title: M.goHint }, M.go);
    const dice = button("⚄", () => { this.seed.value = ""; this.changed(); }, { title: M.dice, "aria-label": M.dice, class: "icon" });
    const last = button("↺", () => { if (this.lastSeed !== null) { this.seed.value = this.lastSeed; this.changed(); } }, { title: M.lastSeed, "aria-label": M.lastSeed, class: "icon" });
    this.seed.id = "seed";
    this.historyList = h("div", { class: "history", hidden: true });
    this.element = h(
      "form",
      { class: "make", novalidate: true },
      labelled(M.prompt, this.prompt),
      this.hints,
      h("div", { class: "row end" }, button(M.history, () => this.showHistory(), { class: "quiet" })),
      this.historyList,
      h("div", { class: "row" }, labelled(M.size, this.size), labelled(M.seconds, this.seconds)),
      this.custom,
      h("div", { class: "row" }, this.first.element, this.last.element),
      h(
        "details",
        { class: "more" },
        h("summary", {}, M.more),
        labelled(M.negative, this.negative),
        labelled(M.model, this.model),
        h(
          "div",
          { class: "row" },
          h("div", { class: "field" }, h("label", { for: "seed" }, M.seed), h("div", { class: "joined" }, this.seed, dice, last)),
          labelled(M.steps, this.steps),
          labelled(M.guidance, this.guidance),
        ),
        labelled(M.accelerate, this.accelerate),
        h("label", { class: "check" }, this.loop, M.loop),
        this.loopReason,
        h("fieldset", {}, h("legend", {}, M.loras), this.loras),
      ),
      this.plan,
      h("div", { class: "row go" }, this.go, labelled(M.count, this.count), button(M.clear, () => this.clear(), { class: "quiet" })),
    );
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.element.addEventListener("input", changed);
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.send();
      }
    });
  }

  async load() {
    const [models, loras] = await Promise.all([get("/v1/models"), get("/v1/loras").catch(() => ({ data: [] }))]);
    this.models = models.data;
    fillWith(this.model, this.models.map((model) => h("option", { value: model.id }, model.id)));
    if (this.kept?.model) this.model.value = this.kept.model;
    fillWith(this.loras, loras.data.length ? loras.data.map((lora) => this.loraRow(lora)) : h("small", {}, M.noLoras));
    this.showModel();
    this.changed();
  }

  loraRow(lora) {
    const use = h("input", { type: "checkbox", "data-lora": lora.id });
    const weight = h("input", { type: "number", step: 0.05, value: 1, "aria-label": fill(M.weight, { name: lora.id }) });
    return h("div", { class: "row lora" }, h("label", { class: "check" }, use, lora.id), weight);
  }

  get chosen() {
    return this.models.find((model) => model.id === this.model.value) ?? this.models[0] ?? null;
  }

  /** Sizes and abilities of the model that is chosen; what it lacks stays visible, with the reason. */
  showModel() {
    const model = this.chosen;
    if (!model || this.shownModel === model) return;
    this.shownModel = model;
    const own = model.defaults;
    const sizes = sizesOf(model);
    const before = this.size.value || this.kept?.size;
    fillWith(
      this.size,
      [...new Set(sizes)].map((size, index) => h("option", { value: index ? size : "" }, size.replace("x", " × "))),
      h("option", { value: "custom" }, "…"),
    );
    if (before && [...this.size.options].some((option) => option.value === before)) this.size.value = before;
    this.seconds.placeholder = Number(own.seconds).toFixed(2);
    this.steps.placeholder = own.num_inference_steps;
    this.guidance.placeholder = own.guidance_scale;
    const lacks = (name) => (model.takes[name] ? null : fill(T.lacks[name], { model: model.id }));
    this.first.allow(lacks("input_reference"));
    this.last.allow(lacks("last_reference"));
    const loop = lacks("loop");
    this.negative.disabled = Boolean(lacks("negative_prompt"));
    this.negative.placeholder = lacks("negative_prompt") ?? "";
    this.loop.disabled = Boolean(loop);
    this.loopReason.textContent = loop ?? "";
    this.loopReason.hidden = !loop;
  }

  /** The request as it is typed, without pictures. */
  fields() {
    const numeric = (input) => (input.value.trim() === "" ? undefined : Number(input.value));
    const size = this.size.value === "custom" ? `${this.width.value}x${this.height.value}` : this.size.value;
    const loras = [...this.loras.querySelectorAll("input[data-lora]")]
      .filter((use) => use.checked)
      .map((use) => ({ name: use.dataset.lora, weight: Number(use.closest(".lora").querySelector("[type=number]").value) }));
    const body = {
      prompt: this.prompt.value.trim(),
      negative_prompt: this.negative.value.trim() || undefined,
      model: this.chosen?.id,
      size: size && size !== "x" ? size : undefined,
      seconds: numeric(this.seconds),
      seed: numeric(this.seed),
      num_inference_steps: numeric(this.steps),
      guidance_scale: numeric(this.guidance),
      accelerate: this.accelerate.value || undefined,
      loop: this.loop.checked || undefined,
      lora: loras.length ? loras : undefined,
    };
    return Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined));
  }

  changed() {
    this.showModel();
    this.custom.hidden = this.size.value !== "custom";
    write(KEEP, { ...this.fields(), size: this.size.value, count: this.count.value });
    this.suggest();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.showPlan(), 250);
  }

  /** What would be made. An older answer that comes late is passed over. */
  async showPlan() {
    if (!this.chosen) return;
    this.asked?.abort();
    this.asked = new AbortController();
    const body = this.fields();
    const typed = Boolean(body.prompt);
    if (!typed) body.prompt = M.promptPlaceholder;
    try {
      const planned = await call("POST", "/v1/videos/plan", body, { signal: this.asked.signal });
      const s = planned.settings;
      const line = fill(T.plan.line, {
        size: `${s.width} × ${s.height}`, frames: s.num_frames, fps: +s.fps.toFixed(3),
        seconds: (s.num_frames / s.fps).toFixed(2), steps: s.steps,
      });
      fillWith(this.plan, h("p", {}, line), planned.notices.map((notice) => h("p", { class: "notice" }, notice)));
    } catch (error) {
      if (error.name === "AbortError") return;
      fillWith(this.plan, h("p", { class: "bad" }, error.message));
    }
  }

  /** Words of the model that the last word may become. */
  async suggest() {
    const model = this.chosen;
    if (!model) return;
    this.words ??= new Map();
    if (!this.words.has(model.id)) {
      this.words.set(model.id, []);
      const found = await get(`/v1/vocabulary?model=${encodeURIComponent(model.id)}`).catch(() => null);
      this.words.set(model.id, found?.words ?? []);
    }
    const before = this.prompt.value.slice(0, this.prompt.selectionStart);
    const start = before.match(/[\p{L}]+$/u)?.[0]?.toLowerCase();
    const fitting = start ? this.words.get(model.id).filter((word) => word.startsWith(start) && word !== start).slice(0, 6) : [];
    fillWith(this.hints, fitting.map((word) => button(word, () => this.complete(start, word), { class: "hint" })));
  }

  complete(start, word) {
    const at = this.prompt.selectionStart;
    const text = this.prompt.value;
    this.prompt.setRangeText(`${word} `, at - start.length, text[at] === " " ? at + 1 : at, "end");
    this.prompt.focus();
    this.changed();
  }

  showHistory() {
    this.historyList.hidden = !this.historyList.hidden;
    const prompts = read(HISTORY, []);
    fillWith(
      this.historyList,
      prompts.length
        ? prompts.map((prompt) => button(prompt, () => { this.prompt.value = prompt; this.historyList.hidden = true; this.changed(); this.prompt.focus(); }, { class: "line" }))
        : h("small", {}, M.historyEmpty),
    );
  }

  async send() {
    const body = this.fields();
    if (!body.prompt) {
      say(M.needsPrompt);
      this.prompt.focus();
      return;
    }
    this.go.disabled = true;
    this.go.textContent = M.sending;
    await act(async () => {
      const pictures = { input_reference: await this.first.send(), last_reference: await this.last.send() };
      for (const [name, reference] of Object.entries(pictures)) if (reference) body[name] = reference;
      let job = null;
      for (let index = 0; index < Math.max(1, Number(this.count.value) || 1); index += 1) {
        const seeded = body.seed === undefined || index === 0 ? body : { ...body, seed: body.seed + index };
        job = await call("POST", "/v1/videos", seeded);
        jobs.take(job);
      }
      this.lastSeed = job.seed;
      write("videodit-last-seed", job.seed);
      write(HISTORY, [body.prompt, ...read(HISTORY, []).filter((prompt) => prompt !== body.prompt)].slice(0, 50));
      this.element.dispatchEvent(new CustomEvent("sent"));
      return job;
    });
    this.go.disabled = false;
    this.go.textContent = M.go;
  }

  /** Puts the settings of a job into the form. */
  use(fields) {
    this.clear();
    this.prompt.value = fields.prompt ?? "";
    this.negative.value = fields.negative_prompt ?? "";
    if (fields.model) this.model.value = fields.model;
    this.showModel();
    if (fields.size) {
      const listed = [...this.size.options].find((option) => option.textContent.replace(" × ", "x") === fields.size);
      this.size.value = listed ? listed.value : "custom";
      [this.width.value, this.height.value] = fields.size.split("x");
    }
    this.seconds.value = fields.seconds ?? "";
    this.seed.value = fields.seed ?? "";
    this.steps.value = fields.num_inference_steps ?? "";
    this.guidance.value = fields.guidance_scale ?? "";
    this.accelerate.value = fields.accelerate ?? "";
    this.loop.checked = Boolean(fields.loop);
    for (const lora of fields.lora ?? []) {
      const use = [...this.loras.querySelectorAll("input[data-lora]")].find((one) => one.dataset.lora === lora.name);
      if (use) {
        use.checked = true;
        use.closest(".lora").querySelector("[type=number]").value = lora.weight ?? 1;
      }
    }
    this.changed();
    this.prompt.focus();
  }

  clear() {
    this.element.reset();
    this.first.set(null);
    this.last.set(null);
    this.changed();
  }

  restore() {
    this.kept = read(KEEP, null);
    if (!this.kept) return;
    this.prompt.value = this.kept.prompt ?? "";
    this.negative.value = this.kept.negative_prompt ?? "";
    this.seconds.value = this.kept.seconds ?? "";
    this.seed.value = this.kept.seed ?? "";
    this.steps.value = this.kept.num_inference_steps ?? "";
    this.guidance.value = this.kept.guidance_scale ?? "";
    this.accelerate.value = this.kept.accelerate ?? "";
    this.loop.checked = Boolean(this.kept.loop);
    this.count.value = this.kept.count ?? 1;
  }
}
