// Jobs that wait: their order, and what can be changed of them.
import { post } from "./api.js";
import { act, stateOf } from "./cards.js";
import { button, fillWith, h } from "./dom.js";
import { jobs } from "./jobs.js";
import { T } from "./strings.js";

const Q = T.queue;

export class Queue {
  /** `edit` gets a job that is to be changed. */
  constructor(edit) {
    this.edit = edit;
    this.list = h("ol", { class: "queue" });
    this.empty = h("p", { class: "empty" });
    this.element = h("section", { "aria-label": Q.title }, this.list, this.empty);
    jobs.addEventListener("change", () => this.show());
    this.show();
  }

  show() {
    const waiting = jobs.waiting();
    this.empty.textContent = waiting.length ? "" : Q.empty;
    const focused = document.activeElement?.dataset?.key;
    fillWith(this.list, waiting.map((job, index) => this.row(job, index, waiting)));
    if (focused) this.list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  row(job, index, waiting) {
    const path = `/v1/videos/${job.id}`;
    const move = (before) => act(() => post(`${path}/move`, before ? { before } : {}));
    const named = (name) => ({ "data-key": `${job.id} ${name}` });
    return h(
      "li",
      { class: "card line", "data-id": job.id },
      h("div", { class: "body" }, h("p", { class: "prompt" }, job.prompt ?? ""), h("p", { class: "about" }, `${job.size.replace("x", " × ")}, seed ${job.seed}: ${stateOf(job)}`)),
      h(
        "div",
        { class: "actions" },
        button("↑", () => move(waiting[index - 1].id), { class: "icon", title: Q.up, "aria-label": Q.up, disabled: index === 0, ...named("up") }),
        button("↓", () => move(waiting[index + 2]?.id), { class: "icon", title: Q.down, "aria-label": Q.down, disabled: index === waiting.length - 1, ...named("down") }),
        button(job.paused ? Q.resume : Q.pause, () => act(() => post(`${path}/${job.paused ? "resume" : "pause"}`)), named("pause")),
        button(Q.edit, () => this.edit(job), named("edit")),
        button(Q.copy, () => act(() => post(`${path}/copy`).then((made) => made.data.forEach((one) => jobs.take(one)))), named("copy")),
        button(Q.remove, () => act(() => post(`${path}/cancel`)), { class: "danger", ...named("remove") }),
      ),
    );
  }
}
