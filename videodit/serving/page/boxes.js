// Boxes of objects, drawn on the first and the last frame: by mouse, or by keys.
import { button, fillWith, h, labelled } from "./dom.js";
import { ARROWS, follow } from "./pulls.js";
import { T, fill } from "./strings.js";

const B = T.boxes;
const SIDE = 320; // pixels of the longer side of the picture
const STEP = 0.02; // of the picture, that a key moves
const SMALLEST = 0.02;
const SIDES = ["left", "top", "right", "bottom"];

const between = (low, value, high) => Math.min(high, Math.max(low, value));
const rounded = (value) => Number(value.toFixed(3));

export class Boxes {
  constructor(onChange) {
    this.onChange = onChange;
    this.objects = [{ first: { left: 0.3, top: 0.3, right: 0.7, bottom: 0.7 }, last: null }];
    this.active = 0;
    this.canvas = h("canvas", { width: SIDE, height: SIDE, tabindex: 0, role: "application", "aria-label": B.canvas, class: "boxes" });
    this.when = h("select", {}, ["first", "last"].map((name) => h("option", { value: name }, B.times[name])));
    this.which = h("select");
    this.add = button(B.add, () => this.addOne());
    this.remove = button(B.remove, () => this.dropOne(), { class: "quiet" });
    this.state = h("small", { role: "status" });
    this.element = h(
      "div", { class: "box-pad" },
      h("div", { class: "row" }, labelled(B.when, this.when), labelled(B.which, this.which)),
      this.canvas, this.state,
      h("div", { class: "actions" }, this.add, this.remove),
    );
    this.when.addEventListener("input", () => this.draw());
    this.which.addEventListener("input", () => { this.active = Number(this.which.value); this.draw(); });
    this.canvas.addEventListener("pointerdown", (event) => this.onPointer(event));
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.showObjects();
  }

  /** The shape of the clip's frames. */
  setShape(width, height) {
    const scale = SIDE / Math.max(width, height);
    const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
    if (wide === this.canvas.width && high === this.canvas.height) return;
    this.canvas.width = wide;
    this.canvas.height = high;
    this.draw();
  }

  showObjects() {
    fillWith(this.which, this.objects.map((_, index) => h("option", { value: index }, fill(B.object, { number: index + 1 }))));
    this.which.value = this.active;
    this.remove.disabled = this.objects.length < 2;
    this.draw();
  }

  addOne() {
    this.objects.push({ first: { left: 0.1, top: 0.1, right: 0.35, bottom: 0.35 }, last: null });
    this.active = this.objects.length - 1;
    this.showObjects();
    this.onChange();
    this.canvas.focus();
  }

  dropOne() {
    this.objects.splice(this.active, 1);
    this.active = 0;
    this.showObjects();
    this.onChange();
    (this.remove.disabled ? this.add : this.remove).focus();
  }

  /** Where an object is at the time that is shown. */
  boxOf(object) {
    return this.when.value === "last" ? object.last ?? object.first : object.first;
  }

  set(box) {
    this.objects[this.active][this.when.value] = Object.fromEntries(SIDES.map((side) => [side, rounded(between(0, box[side], 1))]));
    this.draw();
    this.onChange();
  }

  onPointer(event) {
    this.canvas.focus({ focusVisible: false });
    const inside = ({ x, y }) => [between(0, x, 1), between(0, y, 1)];
    const start = follow(event, this.canvas, this.canvas, (now) => {
      const [[x, y], [u, v]] = [inside(start), inside(now)];
      const box = { left: Math.min(x, u), top: Math.min(y, v), right: Math.max(x, u), bottom: Math.max(y, v) };
      if (box.right - box.left >= SMALLEST && box.bottom - box.top >= SMALLEST) this.set(box);
    });
  }

  /** Arrows move the box; with Shift they move its right and lower border. */
  onKey(event) {
    const way = ARROWS[event.key]?.map((one) => one * STEP);
    if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { left, top, right, bottom } = this.boxOf(this.objects[this.active]);
    if (event.shiftKey) {
      this.set({ left, top, right: Math.max(left + SMALLEST, right + way[0]), bottom: Math.max(top + SMALLEST, bottom + way[1]) });
      return;
    }
    const [x, y] = [between(-left, way[0], 1 - right), between(-top, way[1], 1 - bottom)];
    this.set({ left: left + x, top: top + y, right: right + x, bottom: bottom + y });
  }

  draw() {
    const { width, height } = this.canvas;
    const pen = this.canvas.getContext("2d");
    pen.fillStyle = "#111";
    pen.fillRect(0, 0, width, height);
    this.objects.forEach((object, index) => {
      const { left, top, right, bottom } = this.boxOf(object);
      pen.fillStyle = pen.strokeStyle = index === this.active ? "#ffd23f" : "#7aa7ff";
      pen.globalAlpha = 0.35;
      pen.fillRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
      pen.globalAlpha = 1;
      pen.lineWidth = 2;
      pen.strokeRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
    });
    const box = this.boxOf(this.objects[this.active]);
    this.state.textContent = fill(B.place, Object.fromEntries(SIDES.map((side) => [side, Math.round(box[side] * 100)])));
  }

  /** As the API takes them. */
  data() {
    return this.objects.flatMap(({ first, last }, index) => {
      const object = `object ${index + 1}`;
      return last ? [{ object, ...first, at: 0 }, { object, ...last, at: 1 }] : [{ object, ...first }];
    });
  }

  /** Shows boxes of a request; says whether it can: an object has two at most, at the ends. */
  put(data) {
    const objects = new Map();
    for (const [index, one] of data.entries()) {
      const { object = `${index}`, at = 0, ...box } = Array.isArray(one) ? Object.fromEntries(SIDES.map((side, place) => [side, one[place]])) : one;
      const known = objects.get(object) ?? { first: null, last: null };
      if ((at !== 0 && at !== 1) || known[at ? "last" : "first"]) return false;
      known[at ? "last" : "first"] = box;
      objects.set(object, known);
    }
    if (![...objects.values()].every((one) => one.first)) return false;
    this.objects = [...objects.values()];
    this.active = 0;
    this.showObjects();
    return true;
  }
}
