// Scenes of a clip: what it shows from which second on. The prompt is the first scene.
import { button, fillWith, h, labelled, tell } from "./dom.js";
import { icon } from "./icons.js";
import { follow } from "./pulls.js";
import { T, fill } from "./strings.js";

const B = T.storyboard;
const STEP = 0.1; // seconds that an arrow key moves a scene; with Shift ten times as much
const round = (seconds) => Math.round(seconds * 100) / 100;

export class Storyboard {
  /** `duration` gives the seconds that the clip has. */
  constructor(onChange, duration) {
    this.onChange = onChange;
    this.duration = duration;
    this.scenes = [];
    this.strip = h("div", { class: "strip", role: "group", "aria-label": B.strip, hidden: true });
    this.rows = h("div", { class: "list" });
    this.add = button(B.add, () => this.append(), {});
    this.reason = h("small", { class: "reason", hidden: true });
    this.element = h("div", { class: "storyboard" }, this.strip, this.rows, this.add, this.reason);
  }

  /** Scenes of a request, the prompt first; none where there is no other scene. */
  fields(prompt) {
    if (!this.scenes.length) return null;
    const more = this.sorted().map((scene) => ({ at: round(scene.at), prompt: scene.text.value.trim() }));
    return [{ at: 0, prompt }, ...more];
  }

  /** The text of a scene that has none yet. */
  get empty() {
    return this.sorted().find((scene) => !scene.text.value.trim())?.text ?? null;
  }

  sorted() {
    return [...this.scenes].sort((a, b) => a.at - b.at);
  }

  put(scenes) {
    this.scenes = [];
    fillWith(this.rows);
    fillWith(this.strip);
    for (const { at, prompt } of scenes) this.insert(Number(at), prompt);
    this.draw();
  }

  allow(reason) {
    this.add.disabled = Boolean(reason);
    tell(this.reason, reason);
    if (reason && this.scenes.length) this.put([]);
  }

  /** A scene in the middle of what the last one has. */
  append() {
    const last = this.sorted().at(-1)?.at ?? 0;
    const end = Math.max(this.duration(), last + STEP * 2);
    const scene = this.insert(round((last + end) / 2), "");
    this.draw();
    scene.text.focus();
    this.onChange();
  }

  insert(at, prompt) {
    const scene = { at };
    scene.time = h("input", { type: "number", min: 0, step: "any", inputmode: "decimal", value: at });
    scene.text = h("textarea", { rows: 1, maxlength: 20000, dir: "auto" });
    scene.text.value = prompt;
    scene.time.addEventListener("input", () => {
      if (scene.time.value !== "") scene.at = Number(scene.time.value);
      this.draw(scene.time);
    });
    const remove = h("button", { type: "button", class: "icon quiet", title: B.remove, on: { click: () => this.drop(scene) } }, icon("remove"));
    scene.remove = remove;
    scene.textField = labelled(B.scene, scene.text);
    scene.element = h("div", { class: "scene" }, labelled(B.from, scene.time, { class: "field time" }), scene.textField, remove);
    scene.handle = h("div", { class: "handle", role: "slider", tabindex: 0, "aria-valuemin": 0 });
    scene.handle.addEventListener("keydown", (event) => this.onKey(event, scene));
    scene.handle.addEventListener("pointerdown", (event) => this.onDrag(event, scene));
    this.scenes.push(scene);
    return scene;
  }

  drop(scene) {
    this.scenes = this.scenes.filter((one) => one !== scene);
    scene.element.remove();
    scene.handle.remove();
    this.add.focus();
    this.draw();
    this.onChange();
  }

  move(scene, at) {
    scene.at = round(Math.min(Math.max(at, STEP), Math.max(this.duration() - STEP, STEP)));
    scene.time.value = scene.at;
    this.draw();
    this.onChange();
  }

  onKey(event, scene) {
    const step = event.shiftKey ? STEP * 10 : STEP;
    const moves = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, Home: -Infinity, End: Infinity };
    if (event.key in moves) {
      event.preventDefault();
      this.move(scene, scene.at + moves[event.key]);
      scene.handle.focus();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      this.drop(scene);
    }
  }

  onDrag(event, scene) {
    scene.handle.focus();
    follow(event, scene.handle, this.strip, ({ x }) => this.move(scene, x * this.duration()));
  }

  /** Puts scenes where their times are; `typed` is a field that keeps what is typed in it. */
  draw(typed = null) {
    const seconds = this.duration();
    this.strip.hidden = this.scenes.length === 0;
    this.sorted().forEach((scene, index) => {
      const share = Math.min(100, (scene.at / seconds) * 100);
      scene.handle.style.left = `${share}%`;
      const name = fill(B.number, { number: index + 2 });
      scene.handle.textContent = index + 2;
      scene.handle.setAttribute("aria-label", fill(B.begins, { scene: name }));
      scene.handle.setAttribute("aria-valuemax", round(seconds));
      scene.handle.setAttribute("aria-valuenow", round(scene.at));
      scene.handle.setAttribute("aria-valuetext", fill(B.seconds, { seconds: round(scene.at) }));
      scene.textField.querySelector("label").textContent = name;
      scene.remove.setAttribute("aria-label", `${B.remove}: ${name}`);
      if (this.strip.children[index] !== scene.handle) this.strip.insertBefore(scene.handle, this.strip.children[index] ?? null);
      if (typed === null && this.rows.children[index] !== scene.element) this.rows.insertBefore(scene.element, this.rows.children[index] ?? null);
    });
  }
}
