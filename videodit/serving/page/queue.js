// Jobs that wait: their order, and what can be changed of them.
import { call, post } from "./api.js";
import { aboutOf, act, buttonsWhileMade, stateOf } from "./cards.js";
import { askCopies } from "./clip_actions.js";
import { button, h, labelled, panel } from "./dom.js";
import { promptOf } from "./face.js";
import { jobs } from "./jobs.js";
import { T, fill } from "./strings.js";

const Q = T.queue;

export class Queue {
  constructor() {
    this.rows = new Map();
    this.running = h("ul", { class: "queue" });
    this.list = h("ol", { class: "queue" });
    this.runningPart = h("div", {}, h("h2", {}, Q.running), this.running);
    this.waitingPart = h("div", {}, h("h2", {}, Q.title), h("p", { class: "about" }, Q.hint), this.list);
    this.empty = h("p", { class: "empty" }, Q.empty);
    this.element = h("section", { class: "queue-panel", "aria-label": Q.title }, this.runningPart, this.waitingPart, this.empty);
    jobs.addEventListener("change", () => this.show());
    this.show();
  }

  show() {
    if (this.dragged) return; // what comes meanwhile is shown after the drop
    const [running, waiting] = [jobs.running(), jobs.waiting()];
    this.place(this.running, running, (job) => this.runningRow(job));
    this.place(this.list, waiting, (job) => this.waitingRow(job));
    const ids = new Set([...running, ...waiting].map((job) => job.id));
    for (const id of this.rows.keys()) if (!ids.has(id)) this.rows.delete(id);
    this.runningPart.hidden = !running.length;
    this.waitingPart.hidden = !waiting.length;
    this.empty.hidden = running.length + waiting.length > 0;
  }

  /** Puts rows in their order; one that has not changed stays as it is, with the focus that it may have. */
  place(list, found, make) {
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    const wanted = found.map((job) => {
      const known = this.rows.get(job.id);
      const state = `${job.status} ${job.revision} ${stateOf(job)}`;
      if (known?.state === state) return known.element;
      const element = make(job);
      const name = known?.element.contains(focused) ? focused.dataset.name : null;
      this.rows.set(job.id, { state, element, refocus: name });
      return element;
    });
    for (const child of [...list.children]) if (!wanted.includes(child)) child.remove();
    wanted.forEach((element, index) => {
      if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
    });
    for (const row of this.rows.values()) {
      if (!row.refocus) continue;
      (row.element.querySelector(`[data-name=${row.refocus}]`) ?? row.element).focus();
      row.refocus = null;
    }
    if (focused?.isConnected) focused.focus();
    wanted.forEach((element, index) => {
      const set = (name, value) => {
        const control = element.querySelector(`[data-name=${name}]`);
        if (control) control.disabled = value;
      };
      set("up", index === 0);
      set("down", index === wanted.length - 1);
    });
  }

  about(job) {
    return h("div", { class: "body" }, h("p", { class: "prompt", dir: "auto" }, promptOf(job)), h("p", { class: "about" }, `${aboutOf(job)}: ${stateOf(job)}`));
  }

  runningRow(job) {
    return h("li", { class: "card line", "data-id": job.id }, this.about(job), h("div", { class: "actions" }, buttonsWhileMade(job)));
  }

  waitingRow(job) {
    const path = `/v1/videos/${job.id}`;
    const control = (name, text, listener, props = {}) => button(text, listener, { "data-name": name, ...props });
    const row = h(
      "li",
      { class: "card line", "data-id": job.id, draggable: "true" },
      h("span", { class: "grip", "aria-hidden": "true" }, "⠿"),
      this.about(job),
      h(
        "div",
        { class: "actions" },
        control("up", "↑", () => this.shift(job, -1), { class: "icon", title: Q.up, "aria-label": Q.up }),
        control("down", "↓", () => this.shift(job, 1), { class: "icon", title: Q.down, "aria-label": Q.down }),
        control("pause", job.paused ? Q.resume : Q.pause, () => act(() => post(`${path}/${job.paused ? "resume" : "pause"}`))),
        control("edit", Q.edit, () => change(job)),
        control("copy", Q.copy, () => askCopies(job)),
        control("remove", Q.remove, () => act(() => post(`${path}/cancel`)), { class: "danger" }),
      ),
    );
    row.addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!by || !event.altKey) return;
      event.preventDefault();
      this.shift(job, by);
    });
    this.draggable(row, job);
    return row;
  }

  /** Moves a job by one place. */
  shift(job, by) {
    const ids = jobs.waiting().map((one) => one.id);
    const at = ids.indexOf(job.id);
    if (at + by < 0 || at + by >= ids.length) return;
    ids.splice(at, 1);
    this.move(job, ids[at + by] ?? null);
  }

  /** Moves a job before another one, or to the end. It stands there at once, and goes back if the server refuses. */
  async move(job, before) {
    const old = jobs.waiting().map((one) => one.id);
    const ids = old.filter((id) => id !== job.id);
    ids.splice(before ? ids.indexOf(before) : ids.length, 0, job.id);
    jobs.arrange(ids);
    if (!(await act(() => post(`/v1/videos/${job.id}/move`, before ? { before } : {})))) jobs.arrange(old);
  }

  draggable(row, job) {
    row.addEventListener("dragstart", (event) => {
      this.dragged = row;
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", job.id);
      row.classList.add("dragged");
    });
    row.addEventListener("dragover", (event) => {
      if (!this.dragged) return;
      event.preventDefault();
      const { top, height } = row.getBoundingClientRect();
      const after = event.clientY > top + height / 2;
      if (row !== this.dragged) row[after ? "after" : "before"](this.dragged);
    });
    row.addEventListener("drop", (event) => event.preventDefault());
    row.addEventListener("dragend", () => {
      row.classList.remove("dragged");
      this.dragged = null;
      const before = row.nextElementSibling?.dataset.id ?? null;
      const ids = jobs.waiting().map((one) => one.id);
      if ((ids[ids.indexOf(job.id) + 1] ?? null) === before) this.show();
      else this.move(job, before);
    });
  }
}

/** A job that waits is changed where it stands. */
function change(job) {
  const asked = job.request ?? {};
  const E = Q.change;
  const prompt = h("textarea", { rows: 4, maxlength: 20000, dir: "auto" });
  const number = (value, step, min) => h("input", { type: "number", step, min, value: value ?? "", placeholder: T.make.ownValue });
  const seed = number(job.seed, 1, 0);
  const steps = number(asked.num_inference_steps, 1, 1);
  const seconds = number(asked.seconds ?? null, "any", 0);
  prompt.value = asked.prompt ?? "";
  const fault = h("p", { class: "bad", role: "alert" });
  const form = h(
    "form",
    { novalidate: true },
    asked.storyboard ? null : labelled(T.make.prompt, prompt),
    h("div", { class: "row" }, labelled(T.make.seed, seed), labelled(T.make.steps, steps), asked.num_frames || job.kind === "edit" ? null : labelled(T.make.seconds, seconds)),
    fault,
    h("div", { class: "row end" }, h("button", { class: "main" }, Q.save)),
  );
  const box = panel(E.title, {}, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = {};
    const set = (name, input, before) => {
      const value = input.value.trim() === "" ? null : Number(input.value);
      if (value !== (before ?? null)) body[name] = value;
    };
    if (!asked.storyboard && prompt.value !== asked.prompt) body.prompt = prompt.value;
    set("seed", seed, job.seed);
    set("num_inference_steps", steps, asked.num_inference_steps);
    if (seconds.isConnected) set("seconds", seconds, asked.seconds);
    try {
      if (Object.keys(body).length) jobs.take(await call("PATCH", `/v1/videos/${job.id}`, body));
      box.close();
    } catch (error) {
      fault.textContent = error.code === "not_queued" ? E.late : fill(T.errors.generic, { message: error.message });
    }
  });
  prompt.focus();
}
