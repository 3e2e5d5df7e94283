// The form: everything a clip can be asked for, with what the server's plan says while one types.
import { call, get } from "./api.js";
import { act } from "./cards.js";
import { button, fillWith, h, labelled, say, tell } from "./dom.js";
import { icon } from "./icons.js";
import { jobs } from "./jobs.js";
import { read, write } from "./kept.js";
import { LoRAs } from "./loras.js";
import { KeyFrames, MediaPicker } from "./media.js";
import { MaskPainter } from "./painter.js";
import { PromptBox } from "./prompt.js";
import { References } from "./references.js";
import { Steering } from "./steering.js";
import { Storyboard } from "./storyboard.js";
import { T, fill } from "./strings.js";
import { bytesInWords, sizeInWords, timeInWords } from "./words.js";

const KEEP = "videodit-make";
const LAST_SEED = "videodit-last-seed";
const M = T.make;
const MODES = ["create", "extension", "edit", "connect"];
const PATHS = { create: "/v1/videos", extension: "/v1/videos/extensions", edit: "/v1/videos/edits", connect: "/v1/videos" };
const TASKS = { create: "create", extension: "extension", edit: "edit", connect: "create" };
const TYPING = 250; // milliseconds without a key after which the plan is asked for

function number(attributes) {
  return h("input", { type: "number", inputmode: "decimal", placeholder: M.ownValue, ...attributes });
}

function numeric(input) {
  return input.value.trim() === "" ? undefined : Number(input.value);
}

/** Width and height as the API writes them, once both are there. */
function pair(width, height) {
  return width.value && height.value ? `${width.value}x${height.value}` : undefined;
}

function option(value, text) {
  return h("option", { value }, text);
}

/** Without what is not said. */
function said(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null && value !== ""));
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

/** How many frames the model stores together, and whether the first one stands alone; `"4k+1"` is how it says both. */
function groupsOf(model) {
  const [, group, lead] = /^(\d+)k(\+1)?$/.exec(model?.sizes.frame_rule) ?? [0, 1, undefined];
  return { group: Number(group), lead: lead ? 1 : 0 };
}

/** The frames of so many that fill groups. */
function whole(count, group, lead) {
  return Math.floor((count - lead) / group) * group + lead;
}

/** What a request does, by its fields where nobody says. */
function modeOf(fields) {
  const told = fields.mode ?? fields.task ?? fields.kind;
  if (MODES.includes(told) && told !== "create") return told;
  if (fields.video) return fields.backward !== undefined || fields.seconds !== undefined ? "extension" : "edit";
  const [first, second, ...more] = fields.conditions ?? [];
  const isBridge = second && !more.length && first.at === 0 && second.at < -1 && !fields.input_reference && !fields.last_reference;
  return isBridge ? "connect" : "create";
}

export class Make {
  constructor() {
    this.models = [];
    this.wordsOf = new Map();
    this.lastSeed = read(LAST_SEED, null);
    this.controls();
    this.layOut();
    this.listen();
    this.showMode();
  }

  // ---- building ----

  controls() {
    const changed = () => this.changed();
    this.modes = Object.fromEntries(MODES.map((mode) => [mode, h("input", { type: "radio", name: "mode", value: mode, checked: mode === "create" })]));
    this.modeReason = h("small", { class: "reason", hidden: true });
    this.prompt = new PromptBox(() => this.wordsOf.get(this.chosen?.id) ?? [], changed);
    this.negative = h("textarea", { rows: 2, maxlength: 20000, dir: "auto" });
    this.model = h("select");
    this.size = h("select");
    this.width = number({ step: 1, min: 1 });
    this.height = number({ step: 1, min: 1 });
    this.custom = h("div", { class: "row", hidden: true }, labelled(M.width, this.width), labelled(M.height, this.height));
    this.seconds = number({ step: "any", min: 0 });
    this.steps = number({ step: 1, min: 1 });
    this.guidance = number({ step: "any" });
    this.guidance2 = number({ step: "any" });
    this.fps = number({ step: "any", min: 0 });
    this.accelerate = h("select", {}, option("", M.accelerateNone), ["lossless", "balanced", "fast"].map((name) => option(name, M.presets[name])));
    this.fit = h("select", {}, option("", M.fits.crop), ["pad", "stretch", "error"].map((name) => option(name, M.fits[name])));
    this.loop = h("input", { type: "checkbox" });
    this.loopReason = h("small", { class: "reason", hidden: true });
    this.count = h("input", { type: "number", min: 1, max: 16, value: 1, inputmode: "numeric" });
    this.loras = new LoRAs((word) => this.prompt.insert(word), changed);
    this.first = new MediaPicker(M.first, "picture", changed);
    this.last = new MediaPicker(M.last, "picture", changed);
    this.keyFrames = new KeyFrames(changed);
    this.steering = new Steering(changed, () => (this.missing() ? this.tellMissing() : this.planned()));
    this.references = new References(changed);
    this.board = new Storyboard(changed, () => this.duration);
    this.video = new MediaPicker(M.video, "clip", () => { this.painter.setClip(this.video.source); changed(); });
    this.second = new MediaPicker(M.secondVideo, "clip", changed);
    this.backward = h("select", {}, option("", M.forward), option("true", M.backward));
    this.strength = number({ min: 0.05, max: 1, step: 0.05 });
    this.source = h("input", { type: "text", placeholder: M.sourceHint });
    this.painter = new MaskPainter(changed);
    this.outWidth = number({ step: 1, min: 1 });
    this.outHeight = number({ step: 1, min: 1 });
    this.plan = h("div", { id: "plan", class: "plan", "aria-live": "polite" });
    this.go = h("button", { type: "submit", class: "main", title: M.goHint });
    this.seedRow();
  }

  seedRow() {
    this.seed = h("input", { type: "text", inputmode: "numeric", pattern: "[0-9]*", placeholder: M.seedRandom, id: "seed" });
    const set = (value) => { this.seed.value = value; this.changed(); };
    const drawn = () => Math.floor(Math.random() * 2 ** 31);
    const small = (name, label, act_) => h("button", { type: "button", class: "icon", title: label, "aria-label": label, on: { click: act_ } }, icon(name));
    this.lock = small("open", M.lock, () => set(this.seed.value ? "" : this.lastSeed ?? drawn()));
    this.useLast = small("last", M.lastSeed, () => set(this.lastSeed));
    this.seedField = h("div", { class: "field seed" }, h("label", { for: "seed" }, M.seed), h("div", { class: "joined" }, this.seed, small("dice", M.dice, () => set(drawn())), this.lock, this.useLast));
  }

  layOut() {
    const part = (modes, ...children) => h("div", { class: "part", "data-modes": modes }, ...children);
    this.secondsField = labelled(M.seconds, this.seconds);
    this.element = h(
      "form",
      { class: "make", novalidate: true, "aria-label": T.tabs.make },
      h("fieldset", { class: "modes" }, h("legend", { class: "unseen" }, M.mode), MODES.map((mode) => h("label", {}, this.modes[mode], h("span", {}, M.modes[mode])))),
      this.modeReason,
      part("extension edit connect", h("div", { class: "row top" }, this.video.element, part("connect", this.second.element))),
      part("extension", labelled(M.direction, this.backward)),
      part("edit", h("div", { class: "row top" }, labelled(M.strength, this.strength), h("div", { class: "field" }, this.painter.element)), labelled(M.source, this.source)),
      this.prompt.element,
      part("create", this.board.element),
      h("div", { class: "row" }, labelled(M.size, this.size), part("create extension connect", this.secondsField)),
      this.custom,
      part("create", h("div", { class: "row top" }, this.first.element, this.last.element)),
      part("create", h("details", { class: "more", id: "frames" }, h("summary", {}, M.keyFrames), this.keyFrames.element)),
      h("details", { class: "more", id: "references" }, h("summary", {}, M.references), this.references.element),
      h("details", { class: "more", id: "steering" }, h("summary", {}, M.steering), this.steering.element),
      h(
        "details",
        { class: "more", id: "more" },
        h("summary", {}, M.more),
        labelled(M.negative, this.negative),
        h("div", { class: "row" }, labelled(M.model, this.model), labelled(M.accelerate, this.accelerate)),
        this.seedField,
        h("div", { class: "row" }, labelled(M.steps, this.steps), labelled(M.guidance, this.guidance), (this.guidance2Field = labelled(M.guidance2, this.guidance2))),
        h("div", { class: "row" }, labelled(M.fps, this.fps), labelled(M.fit, this.fit)),
        part("edit", h("div", { class: "row" }, labelled(M.outWidth, this.outWidth), labelled(M.outHeight, this.outHeight))),
        part("create", h("label", { class: "check" }, this.loop, M.loop), this.loopReason),
        this.loras.element,
      ),
      h("div", { class: "footer" }, this.plan, h("div", { class: "row go" }, this.go, labelled(M.count, this.count), button(M.clear, () => this.clear(), { class: "quiet" }))),
    );
  }

  listen() {
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.element.addEventListener("input", (event) => {
      if (event.target.name === "mode") this.showMode();
      this.changed();
    });
    document.addEventListener("keydown", (event) => {
      const isSend = event.key === "Enter" && (event.ctrlKey || event.metaKey);
      if (!isSend || !this.element.isConnected || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      this.send();
    });
    this.element.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
      if (!file || this.mode !== "create" || this.first.zone.disabled) return;
      event.preventDefault();
      this.first.take(file);
    });
  }

  async load() {
    const [models, loras] = await Promise.all([get("/v1/models"), get("/v1/loras").catch(() => ({ data: [] }))]);
    this.models = models.data;
    fillWith(this.model, this.models.map((model) => option(model.id, model.id)));
    this.loras.show(loras.data);
    this.showModel();
    const kept = read(KEEP, null);
    if (kept) await this.put(kept);
    else this.changed();
  }

  // ---- what is shown ----

  get mode() {
    return MODES.find((mode) => this.modes[mode].checked) ?? "create";
  }

  get chosen() {
    return this.models.find((model) => model.id === this.model.value) ?? this.models[0] ?? null;
  }

  get rate() {
    return numeric(this.fps) || this.chosen?.defaults.fps || 16;
  }

  /** Seconds that the clip will have, as far as is known. */
  get duration() {
    return numeric(this.seconds) ?? Number(this.chosen?.defaults.seconds ?? 2);
  }

  showMode() {
    const mode = this.mode;
    for (const part of this.element.querySelectorAll("[data-modes]")) part.hidden = !part.dataset.modes.split(" ").includes(mode);
    this.secondsField.querySelector("label").textContent = { extension: M.secondsAdded, connect: M.secondsBetween }[mode] ?? M.seconds;
    this.video.label.textContent = M.videos[mode] ?? M.video;
    this.go.textContent = M.goes[mode];
    this.showPlaceholders();
  }

  showPlaceholders() {
    const own = this.chosen?.defaults;
    if (!own) return;
    const mode = this.mode;
    this.seconds.placeholder = mode === "extension" ? "2" : mode === "connect" ? "1" : Number(own.seconds).toFixed(2);
    this.steps.placeholder = own.num_inference_steps;
    this.guidance.placeholder = own.guidance_scale;
    this.fps.placeholder = own.fps;
    this.strength.placeholder = this.source.value.trim() ? "0.8" : this.painter.reference ? M.strengthOfMask : "0.6";
    this.prompt.label.textContent = this.needsPrompt ? M.prompt : M.promptGoesOn;
    this.prompt.area.placeholder = (mode !== "create" && this.video.source?.prompt) || M.promptPlaceholder;
  }

  /** Sizes and abilities of the model that is chosen; what it lacks stays visible, with the reason. */
  showModel() {
    const model = this.chosen;
    if (!model || this.shownModel === model) return;
    this.shownModel = model;
    const before = this.size.value;
    fillWith(this.size, sizesOf(model).map((size, index) => option(index ? size : "", sizeInWords(size))), option("custom", M.customSize));
    if ([...this.size.options].some((one) => one.value === before)) this.size.value = before;
    const takes = model.takes;
    const kinds = takes.conditions ?? [];
    const lacks = (name, has = takes[name]) => (has ? null : fill(T.lacks[name], { model: model.id }));
    this.first.allow(lacks("input_reference"));
    this.last.allow(lacks("last_reference"));
    this.keyFrames.allow(lacks("key_frames", kinds.includes("region")));
    this.board.allow(lacks("storyboard"));
    this.painter.allow(lacks("mask", kinds.includes("region")));
    this.loras.allow(model.id);
    this.steering.allow(model.control, lacks("control", false));
    this.references.allow(model.references, lacks("references", false));
    const reasons = { extension: lacks("extension", kinds.includes("region")), edit: lacks("edit", kinds.includes("edit")), connect: lacks("connect", kinds.includes("region")) };
    for (const [mode, reason] of Object.entries(reasons)) {
      this.modes[mode].disabled = Boolean(reason);
      this.modes[mode].parentElement.title = reason ?? "";
      if (reason && this.modes[mode].checked) this.setMode("create");
    }
    tell(this.modeReason, [...new Set(Object.values(reasons).filter(Boolean))].join(" "));
    const loop = lacks("loop");
    this.loop.disabled = Boolean(loop);
    tell(this.loopReason, loop);
    this.negative.disabled = !takes.negative_prompt;
    this.negative.placeholder = lacks("negative_prompt") ?? "";
    this.guidance2Field.hidden = !takes.guidance_scale_2;
    this.showPlaceholders();
    this.loadWords(model);
  }

  async loadWords(model) {
    if (this.wordsOf.has(model.id)) return;
    this.wordsOf.set(model.id, []);
    const found = await get(`/v1/vocabulary?model=${encodeURIComponent(model.id)}`).catch(() => null);
    this.wordsOf.set(model.id, found?.words ?? []);
    if (document.activeElement === this.prompt.area) this.prompt.suggest(); // of what was typed meanwhile
  }

  setMode(mode) {
    this.modes[mode].checked = true;
    this.showMode();
  }

  // ---- what is asked for ----

  /** The body of a request, as the API takes it. */
  fields() {
    const mode = this.mode;
    const size = this.size.value === "custom" ? pair(this.width, this.height) : this.size.value;
    const seconds = numeric(this.seconds);
    const body = {
      prompt: this.prompt.text,
      negative_prompt: this.negative.disabled ? undefined : this.negative.value.trim(),
      model: this.chosen?.id,
      size,
      fps: numeric(this.fps),
      fit: this.fit.value,
      seed: numeric(this.seed),
      num_inference_steps: numeric(this.steps),
      guidance_scale: numeric(this.guidance),
      guidance_scale_2: this.guidance2Field.hidden ? undefined : numeric(this.guidance2),
      accelerate: this.accelerate.value,
      lora: this.loras.fields(),
      control: this.steering.fields(),
      ...this.references.fields(),
    };
    if (mode === "create") Object.assign(body, { seconds, ...this.fixed() });
    if (mode === "extension") Object.assign(body, { video: this.video.reference, seconds: seconds ?? 2, backward: this.backward.value ? true : undefined });
    if (mode === "edit") {
      const outpaint = pair(this.outWidth, this.outHeight);
      Object.assign(body, { video: this.video.reference, strength: numeric(this.strength), mask: this.painter.reference, outpaint, source_prompt: this.source.value.trim() || undefined });
      if (outpaint) delete body.size;
    }
    if (mode === "connect") Object.assign(body, this.bridge(seconds ?? 1));
    return said(body);
  }

  /** Pictures, scenes and the loop of a clip from scratch. */
  fixed() {
    const scenes = this.board.fields(this.prompt.text);
    const conditions = [...this.keyFrames.fields(this.rate), ...(this.otherConditions ?? [])];
    return {
      input_reference: this.first.reference,
      last_reference: this.last.reference,
      conditions: conditions.length ? conditions : undefined,
      loop: this.loop.checked || undefined,
      ...(scenes ? { storyboard: scenes, prompt: undefined } : {}),
    };
  }

  /** Both clips at the ends of a longer one, as far as they fill the model's groups of frames. */
  bridge(seconds) {
    if (!this.video.source || !this.second.source) return {};
    const { group, lead } = groupsOf(this.chosen);
    const [first, second] = [this.video.source, this.second.source].map((source) => this.framesOf(source));
    const between = Math.max(group, Math.round((seconds * this.rate) / group) * group);
    let count = Math.max(1, whole(first, group, lead)) + between + whole(second, group, 0);
    while (count < first + second + group) count += group; // what is left of groups at both ends has its place, too
    return {
      num_frames: count,
      conditions: [{ kind: "frames", content: { id: this.video.source.id }, at: 0 }, { kind: "frames", content: { id: this.second.source.id }, at: -second }],
    };
  }

  framesOf(source) {
    return Math.max(1, Math.round((source.num_frames / source.fps) * this.rate));
  }

  /** Which frames of the two clips that are connected may change, in words. */
  bridgeNotices() {
    const { group, lead } = groupsOf(this.chosen);
    const [first, second] = [this.video.source, this.second.source].map((source) => this.framesOf(source));
    const rests = { ofFirst: first - whole(first, group, lead), ofSecond: second - whole(second, group, 0) };
    return Object.entries(rests).filter(([, count]) => count > 0).map(([which, count]) => fill(count === 1 ? T.plan.loose[which].one : T.plan.loose[which].more, { count }));
  }

  /** What is missing before anything can be made, in words. */
  missing() {
    if (this.mode !== "create" && !this.video.source) return { text: M.needsClip, at: this.video.zone };
    if (this.mode === "connect" && !this.second.source) return { text: M.needsSecondClip, at: this.second.zone };
    const scene = this.mode === "create" ? this.board.empty : null;
    if (scene) return { text: M.needsScene, at: scene };
    const more = this.steering.missing() ?? this.references.missing();
    if (more) return more;
    return this.needsPrompt && !this.prompt.text ? { text: M.needsPrompt, at: this.prompt.area } : null;
  }

  tellMissing() {
    const { text, at } = this.missing();
    say(text);
    at.focus();
    return null;
  }

  /** The body of a request, and what it asks for. */
  planned() {
    return { ...this.fields(), task: TASKS[this.mode] };
  }

  /** A clip that was made here goes on from its own prompt. */
  get needsPrompt() {
    return this.mode === "create" || this.mode === "connect" || !this.video.source?.prompt;
  }

  changed() {
    if (this.putting) return;
    this.showModel();
    this.custom.hidden = this.size.value !== "custom";
    this.lock.setAttribute("aria-pressed", String(Boolean(this.seed.value)));
    fillWith(this.lock, icon(this.seed.value ? "locked" : "open"));
    this.useLast.disabled = this.lastSeed === null;
    this.showPlaceholders();
    this.board.draw();
    write(KEEP, { ...this.fields(), mode: this.mode, count: this.count.value, unsaid: this.unsaid() });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.showPlan(), TYPING);
  }

  /** What the form holds that the mode does not send. */
  unsaid() {
    return said({ video: this.video.reference, second: this.second.reference, seconds: numeric(this.seconds), prompt: this.prompt.text });
  }

  /** What would be made. An older answer that comes late is passed over. */
  async showPlan() {
    if (!this.chosen) return;
    this.asked?.abort();
    this.asked = new AbortController();
    const body = this.planned();
    const missing = this.missing();
    if (missing && missing.at !== this.prompt.area) {
      fillWith(this.plan, h("p", {}, missing.text));
      return;
    }
    if (missing) {
      if (body.storyboard) body.storyboard[0].prompt = M.promptPlaceholder;
      else body.prompt = M.promptPlaceholder;
    }
    try {
      const planned = await call("POST", "/v1/videos/plan", body, { signal: this.asked.signal });
      const s = planned.settings;
      this.steering.setShape(s.width, s.height);
      const line = fill(T.plan.line, {
        size: sizeInWords(`${s.width}x${s.height}`), frames: s.num_frames, fps: +s.fps.toFixed(3),
        seconds: (s.num_frames / s.fps).toFixed(2), steps: s.steps === 1 ? T.plan.oneStep : fill(T.plan.steps, s),
      });
      const { seconds, memory_bytes: memory } = planned.estimate;
      const costs = [seconds && fill(T.plan.time, { time: timeInWords(seconds) }), memory && fill(T.plan.memory, { memory: bytesInWords(memory) })].filter(Boolean);
      fillWith(this.plan, h("p", {}, line), costs.length ? h("p", { class: "costs" }, costs.join(", ")) : null, [...(this.mode === "connect" ? this.bridgeNotices() : []), ...planned.notices].map((notice) => h("p", { class: "notice" }, notice)));
    } catch (error) {
      if (error.name === "AbortError") return;
      fillWith(this.plan, h("p", { class: "bad" }, error.message));
    }
  }

  async send() {
    if (this.go.disabled) return;
    const pickers = [this.first, this.last, this.video, this.second, ...this.keyFrames.pickers, ...this.steering.pickers, ...this.references.pickers];
    this.go.disabled = true;
    this.go.textContent = M.sending;
    await Promise.all(pickers.map((picker) => picker.sending));
    if (this.missing()) this.tellMissing();
    else {
      const body = this.fields();
      const path = PATHS[this.mode];
      await act(async () => {
        let job = null;
        for (let index = 0; index < Math.max(1, Number(this.count.value) || 1); index += 1) {
          job = await call("POST", path, body.seed === undefined || index === 0 ? body : { ...body, seed: body.seed + index });
          jobs.take(job);
        }
        this.lastSeed = job.seed;
        write(LAST_SEED, job.seed);
        this.prompt.remember();
        return job;
      });
    }
    this.go.disabled = false;
    this.go.textContent = M.goes[this.mode];
    this.useLast.disabled = this.lastSeed === null;
  }

  // ---- settings that come from elsewhere ----

  /**
   * Puts the settings of a job into the form: the fields of its `request`. `mode` (or `kind`) says what they are for:
   * create, extension, edit or connect; without it the fields decide. To go on from a clip, say
   * `{ mode: "extension", video: { id } }`.
   */
  async use(fields) {
    await this.put(fields);
    this.prompt.area.focus();
  }

  async put(fields) {
    this.putting = true;
    try {
      await this.fillIn(fields);
    } finally {
      this.putting = false;
    }
    this.changed();
  }

  async fillIn(fields) {
    const kept = fields.unsaid ?? {};
    const mode = modeOf(fields);
    this.element.reset();
    if (fields.model && this.models.some((model) => model.id === fields.model)) this.model.value = fields.model;
    this.showModel();
    this.setMode(this.modes[mode].disabled ? "create" : mode);
    const scenes = fields.storyboard ?? [];
    this.prompt.set(fields.prompt ?? scenes[0]?.prompt ?? kept.prompt ?? "");
    this.board.put(scenes.slice(1));
    this.negative.value = fields.negative_prompt ?? "";
    this.putSize(fields.size);
    this.fps.value = fields.fps ?? "";
    this.seconds.value = this.secondsOf(fields) ?? kept.seconds ?? "";
    this.seed.value = fields.seed ?? "";
    this.steps.value = fields.num_inference_steps ?? "";
    this.guidance.value = fields.guidance_scale ?? "";
    this.guidance2.value = fields.guidance_scale_2 ?? "";
    this.accelerate.value = fields.accelerate ?? "";
    this.fit.value = fields.fit && fields.fit !== "crop" ? fields.fit : "";
    this.loop.checked = Boolean(fields.loop);
    this.count.value = fields.count ?? 1;
    this.backward.value = fields.backward ? "true" : "";
    this.strength.value = fields.strength ?? "";
    this.source.value = fields.source_prompt ?? "";
    [this.outWidth.value, this.outHeight.value] = (fields.outpaint ?? "x").split("x");
    this.loras.put(fields.lora ?? []);
    const [video, second] = mode === "connect" ? (fields.conditions ?? []).map((one) => one.content) : [fields.video];
    const conditions = mode === "create" ? fields.conditions ?? [] : [];
    const frames = conditions.filter((one) => (one.kind ?? "frames") === "frames" && one.content);
    this.otherConditions = conditions.filter((one) => !frames.includes(one));
    await Promise.all([
      this.first.restore(fields.input_reference),
      this.last.restore(fields.last_reference),
      this.video.restore(video ?? kept.video),
      this.second.restore(second ?? kept.second),
      this.keyFrames.put(frames.map((one) => ({ at: 0, ...one })), this.rate),
      this.steering.put(fields.control),
      this.references.put(fields.references, fields.reference_layout, fields.reference_guidance),
    ]);
    this.painter.restore(fields.mask);
    this.element.querySelector("#frames").open = frames.length > 0;
    this.element.querySelector("#steering").open = this.steering.rows.length > 0;
    this.element.querySelector("#references").open = this.references.rows.length > 0;
  }

  secondsOf(fields) {
    if (fields.seconds !== undefined) return fields.seconds;
    if (fields.num_frames === undefined || modeOf(fields) === "connect") return undefined;
    return +(fields.num_frames / this.rate).toFixed(4);
  }

  putSize(size) {
    if (!size) {
      this.size.selectedIndex = 0;
      return;
    }
    const listed = [...this.size.options].find((one) => one.textContent === sizeInWords(size));
    this.size.value = listed ? listed.value : "custom";
    [this.width.value, this.height.value] = size.split("x");
  }

  clear() {
    this.put({ mode: this.mode });
    this.prompt.area.focus();
  }
}
