// A mask painted over the frames of a clip: what is painted is made anew. Masks at several times follow what moves.
import { upload } from "./api.js";
import { aviOf } from "./avi.js";
import { button, fillWith, h, labelled, panel } from "./dom.js";
import { release } from "./face.js";
import { between, hasPaint, isFull } from "./masks.js";
import { ARROWS, follow } from "./pulls.js";
import { T, fill } from "./strings.js";

const P = T.painter;
const LONGEST = 640; // pixels of a mask's longer side
const TOOLS = ["brush", "box", "eraser"];
const QUALITY = 0.95;

function plain(width, height) {
  const canvas = h("canvas", { width, height });
  canvas.getContext("2d", { willReadFrequently: true }); // masks are measured often
  return canvas;
}

export class MaskPainter {
  constructor(onChange) {
    this.onChange = onChange;
    this.clip = null;
    this.keys = new Map(); // frame → canvas, white where the clip is made anew
    this.uploaded = null;
    this.open = button(P.paint, () => this.show(), {});
    this.remove = button(P.remove, () => { this.forget(); this.onChange(); this.open.focus(); }, { class: "quiet", hidden: true });
    this.state = h("small", { class: "reason", role: "status" });
    this.element = h("div", {}, h("span", { class: "label" }, P.title), h("div", { class: "actions" }, this.open, this.remove), this.state);
    this.tell();
  }

  get reference() {
    return this.uploaded ? { id: this.uploaded } : undefined;
  }

  allow(reason) {
    this.reason = reason;
    if (reason) this.forget();
    this.tell();
  }

  /** Another clip has no mask yet. */
  setClip(source) {
    if (source?.id !== this.clip?.id) this.forget();
    this.clip = source;
    this.tell();
  }

  restore(reference) {
    if (reference?.id === this.uploaded) return;
    this.forget();
    this.uploaded = reference?.id ?? null;
    this.tell();
  }

  forget() {
    this.keys.clear();
    this.uploaded = null;
    this.tell();
  }

  tell() {
    const playable = Boolean(this.clip?.url);
    this.open.disabled = Boolean(this.reason) || !playable;
    this.remove.hidden = !this.uploaded;
    const times = this.keys.size;
    if (this.reason) this.state.textContent = this.reason;
    else if (this.uploaded) this.state.textContent = times > 1 ? fill(P.several, { count: times }) : times ? P.one : P.kept;
    else this.state.textContent = !this.clip ? P.needsClip : playable ? P.none : P.notHere;
  }

  // ---- the dialog ----

  show() {
    const { width, height } = this.clip;
    const scale = Math.min(1, LONGEST / Math.max(width, height));
    this.width = Math.round(width * scale);
    this.height = Math.round(height * scale);
    this.frame = [...this.keys.keys()][0] ?? 0;
    this.cursor = { x: this.width / 2, y: this.height / 2, shown: false };
    this.before = [];
    this.corner = this.marked = null;
    this.controls();
    const stage = h("div", { class: "stage" }, this.picture, this.canvas);
    this.box = panel(
      P.title, { class: "painter" },
      h("p", { class: "about" }, P.about),
      h("div", { class: "toolbar" }, this.tools, labelled(P.size, this.size, { class: "field short" }), this.undo, this.clearOne),
      stage,
      labelled(P.time, this.time, { class: "field" }), this.marks, this.error,
      h("div", { class: "row end" }, this.done),
    );
    this.box.addEventListener("close", () => { release(this.video); this.open.focus(); });
    this.seek();
  }

  controls() {
    this.video = h("video", { src: this.clip.url, preload: "auto", playsinline: true });
    this.video.muted = true;
    this.picture = plain(this.width, this.height);
    this.picture.setAttribute("aria-hidden", "true");
    this.canvas = plain(this.width, this.height);
    for (const [name, value] of Object.entries({ tabindex: 0, role: "application", "aria-label": P.canvas, class: "paint" })) this.canvas.setAttribute(name, value);
    this.tools = h("fieldset", { class: "modes" }, h("legend", { class: "unseen" }, P.tool), TOOLS.map((tool, index) => h("label", {}, h("input", { type: "radio", name: "tool", value: tool, checked: index === 0 }), h("span", {}, P.tools[tool]))));
    this.size = h("input", { type: "range", min: 2, max: 100, value: 20 });
    this.undo = button(P.undo, () => this.takeBack());
    this.clearOne = button(P.clear, () => this.clearFrame());
    this.time = h("input", { type: "range", min: 0, max: Math.max(0, this.clip.num_frames - 1), step: 1, value: this.frame });
    this.marks = h("div", { class: "actions" });
    this.error = h("p", { class: "bad", role: "status" });
    this.done = button(P.use, () => this.finish(), { class: "main" });
    this.time.addEventListener("input", () => { this.frame = Number(this.time.value); this.seek(); });
    this.video.addEventListener("seeked", () => this.picture.getContext("2d").drawImage(this.video, 0, 0, this.width, this.height));
    this.video.addEventListener("loadeddata", () => this.seek());
    this.canvas.addEventListener("pointerdown", (event) => this.onPointer(event));
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.canvas.addEventListener("focus", () => { this.cursor.shown = this.canvas.matches(":focus-visible"); this.draw(); });
    this.canvas.addEventListener("blur", () => { this.cursor.shown = false; this.draw(); });
  }

  seek() {
    if (this.video.readyState) this.video.currentTime = (this.frame + 0.5) / this.clip.fps;
    this.draw();
  }

  get tool() {
    return this.tools.querySelector("input:checked").value;
  }

  get radius() {
    return (Number(this.size.value) / 200) * Math.max(this.width, this.height) * 0.5;
  }

  /** The mask of the frame that is shown, begun from what is between its neighbours. */
  key() {
    if (!this.keys.has(this.frame)) {
      const begun = plain(this.width, this.height);
      const there = between(this.keys, this.frame, this.width, this.height);
      if (there) begun.getContext("2d").drawImage(there, 0, 0);
      this.keys.set(this.frame, begun);
    }
    return this.keys.get(this.frame);
  }

  keep() {
    const copy = this.keys.has(this.frame) ? this.key().getContext("2d").getImageData(0, 0, this.width, this.height) : null;
    this.before.push([this.frame, copy]);
    if (this.before.length > 30) this.before.shift();
  }

  takeBack() {
    const last = this.before.pop();
    if (!last) return;
    const [frame, copy] = last;
    this.frame = frame;
    this.time.value = frame;
    if (copy) this.key().getContext("2d").putImageData(copy, 0, 0);
    else this.keys.delete(frame);
    this.seek();
  }

  /** Nothing is painted here now; where other frames have masks, this one begins anew. */
  clearFrame() {
    this.keep();
    this.keys.delete(this.frame);
    if (this.keys.size) this.keys.set(this.frame, plain(this.width, this.height));
    this.draw();
  }

  stroke(from, to) {
    const pen = this.key().getContext("2d");
    pen.globalCompositeOperation = this.tool === "eraser" ? "destination-out" : "source-over";
    pen.strokeStyle = pen.fillStyle = "#fff";
    pen.lineCap = pen.lineJoin = "round";
    pen.lineWidth = this.radius * 2;
    pen.beginPath();
    pen.moveTo(from.x, from.y);
    pen.lineTo(to.x + 0.01, to.y);
    pen.stroke();
  }

  fillBox(a, b) {
    const pen = this.key().getContext("2d");
    pen.globalCompositeOperation = "source-over";
    pen.fillStyle = "#fff";
    pen.fillRect(Math.min(a.x, b.x), Math.min(a.y, b.y), Math.abs(a.x - b.x), Math.abs(a.y - b.y));
  }

  onPointer(event) {
    this.canvas.focus({ focusVisible: false });
    const scaled = ({ x, y }) => ({ x: x * this.width, y: y * this.height });
    const onMove = (place) => {
      const now = scaled(place);
      if (this.tool === "box") this.draw([start, now]);
      else {
        this.stroke(last, now);
        this.draw();
      }
      last = now;
    };
    const onEnd = () => {
      if (this.tool === "box") this.fillBox(start, last);
      this.draw();
    };
    this.keep();
    const start = scaled(follow(event, this.canvas, this.canvas, onMove, onEnd));
    let last = start;
    if (this.tool !== "box") this.stroke(start, start);
    this.draw();
  }

  /** Arrows move a cross, Space paints there; with the box, twice: one corner, then the other. */
  onKey(event) {
    const step = event.shiftKey ? 20 : 5;
    const way = ARROWS[event.key];
    if (way) {
      this.cursor.x = Math.min(Math.max(this.cursor.x + way[0] * step, 0), this.width);
      this.cursor.y = Math.min(Math.max(this.cursor.y + way[1] * step, 0), this.height);
    } else if (event.key === " ") {
      if (this.tool === "box" && this.corner) {
        this.keep();
        this.fillBox(this.corner, this.cursor);
        this.corner = null;
      } else if (this.tool === "box") this.corner = { ...this.cursor };
      else {
        this.keep();
        this.stroke(this.cursor, this.cursor);
      }
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.takeBack();
    else return;
    event.preventDefault();
    this.cursor.shown = true;
    this.draw(this.corner ? [this.corner, this.cursor] : null);
  }

  /** The mask over the frame, in colour, and a box that is drawn just now. */
  draw(box = null) {
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, this.width, this.height);
    const mask = this.keys.get(this.frame) ?? between(this.keys, this.frame, this.width, this.height);
    if (mask) pen.drawImage(mask, 0, 0);
    if (box) {
      pen.fillStyle = "#fff";
      pen.fillRect(Math.min(box[0].x, box[1].x), Math.min(box[0].y, box[1].y), Math.abs(box[0].x - box[1].x), Math.abs(box[0].y - box[1].y));
    }
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "rgba(230, 30, 120, 0.6)";
    pen.fillRect(0, 0, this.width, this.height);
    pen.globalCompositeOperation = "source-over";
    if (this.cursor.shown) {
      const { x, y } = this.cursor;
      for (const [colour, thick] of [["#000", 3], ["#fff", 1]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = thick;
        pen.beginPath();
        pen.moveTo(x - 8, y); pen.lineTo(x + 8, y); pen.moveTo(x, y - 8); pen.lineTo(x, y + 8);
        pen.stroke();
      }
    }
    this.showMarks();
  }

  showMarks() {
    const frames = [...this.keys.keys()].sort((a, b) => a - b);
    const shown = `${frames} ${this.frame}`;
    this.time.setAttribute("aria-valuetext", fill(P.at, { seconds: (this.frame / this.clip.fps).toFixed(2) }));
    if (shown === this.marked) return;
    this.marked = shown;
    fillWith(
      this.marks,
      h("small", {}, frames.length > 1 ? P.follows : frames.length ? P.forAll : P.empty),
      frames.map((frame) => button(fill(P.at, { seconds: (frame / this.clip.fps).toFixed(2) }), () => { this.frame = frame; this.time.value = frame; this.seek(); }, { "aria-pressed": String(frame === this.frame) })),
    );
  }

  // ---- what is sent ----

  async finish() {
    for (const [frame, mask] of this.keys) if (!hasPaint(mask)) this.keys.delete(frame);
    this.draw();
    if (!this.keys.size) {
      this.error.textContent = P.empty;
      return;
    }
    if ([...this.keys.values()].every(isFull)) {
      this.error.textContent = P.full;
      return;
    }
    this.done.disabled = true;
    try {
      const file = this.keys.size === 1 ? await this.asPicture() : await this.asClip();
      this.uploaded = (await upload(file)).id;
      this.tell();
      this.box.close();
      this.onChange();
    } catch (error) {
      this.error.textContent = error.message;
      this.done.disabled = false;
    }
  }

  blob(mask, kind) {
    const flat = plain(this.width, this.height);
    const pen = flat.getContext("2d", { alpha: false });
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, this.width, this.height);
    pen.drawImage(mask, 0, 0);
    return new Promise((resolve) => flat.toBlob(resolve, kind, QUALITY));
  }

  async asPicture() {
    return new File([await this.blob([...this.keys.values()][0], "image/png")], "mask.png", { type: "image/png" });
  }

  /** A mask for each frame, as a clip of the edited one's length and rate. */
  async asClip() {
    const pictures = [];
    for (let frame = 0; frame < this.clip.num_frames; frame += 1) {
      const mask = this.keys.get(frame) ?? between(this.keys, frame, this.width, this.height);
      pictures.push(new Uint8Array(await (await this.blob(mask, "image/jpeg")).arrayBuffer()));
    }
    return new File([aviOf(pictures, this.width, this.height, this.clip.fps)], "mask.avi", { type: "video/x-msvideo" });
  }
}
