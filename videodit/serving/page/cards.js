// A job as a card: its preview or clip, what it does, and what can be done with it.
import { call, post, previewUrl } from "./api.js";
import { button, fillWith, h, say, tell } from "./dom.js";
import { face, letGo, promptOf } from "./face.js";
import { isUnfinished, jobs } from "./jobs.js";
import { T, fill } from "./strings.js";
import { view } from "./viewer.js";
import { lengthInWords, sizeInWords, timeInWords } from "./words.js";

/** What a job does now, in words. */
export function stateOf(job) {
  const W = T.watch;
  if (job.status === "queued") {
    if (job.paused) return W.paused;
    return fill(W.queued, { place: jobs.positions[job.id] ?? job.queue_position });
  }
  if (job.status === "in_progress") {
    if (job.cancelling) return W.cancelling;
    const stage = fill(W[job.stage] ?? job.stage ?? W.starting, job);
    return job.seconds_left ? `${stage}, ${fill(W.left, { time: timeInWords(job.seconds_left) })}` : stage;
  }
  if (job.status === "failed") {
    if (job.error?.code === "cancelled") return W.cancelled;
    return fill(W.failed, { message: job.error?.message ?? "" });
  }
  return job.complete === false ? W.shorter : "";
}

/** Size, length, model and seed of a job, in a line. */
export function aboutOf(job) {
  const facts = [job.size && sizeInWords(job.size), job.seconds && lengthInWords(job.seconds), job.model, `seed\u00a0${job.seed}`];
  return facts.filter(Boolean).join(", ");
}

/** Does something by the API, and says so if it fails; gives what it gave, or `null`. */
export async function act(work) {
  try {
    const job = await work();
    if (job?.object === "video") jobs.take(job);
    return job;
  } catch (error) {
    if (error.status !== 401) say(error.status === 429 && error.code === "queue_full" ? T.errors.busy : fill(T.errors.generic, { message: error.message }));
    return null;
  }
}

/** Deletes a job. */
export async function erase(job) {
  const gone = await act(() => call("DELETE", `/v1/videos/${job.id}`));
  if (gone) jobs.take(gone);
}

/** Asks the form, which listens on the document, to start from a job: `use`, `extend`, `edit` or `loop`. */
export function start(kind, job) {
  document.dispatchEvent(new CustomEvent(kind, { detail: job }));
}

/** What can be done with a job that waits or runs. */
export function buttonsWhileMade(job) {
  const path = `/v1/videos/${job.id}`;
  if (job.cancelling) return [];
  const keeps = job.status === "in_progress" && job.settings.windows > 1;
  return [
    button(T.watch.cancel, () => act(() => post(`${path}/cancel`))),
    keeps ? button(T.watch.keep, () => act(() => post(`${path}/cancel?keep=true`)), { title: T.watch.keepHint }) : null,
  ];
}

/** A card that is kept up to date by `update(job)`. */
export class WatchCard {
  constructor(job) {
    this.picture = h("div", { class: "picture" });
    this.bar = h("progress", { max: 100, value: 0, "aria-label": promptOf(job) || job.id });
    this.about = h("p", { class: "about" });
    this.state = h("div", { class: "state" });
    this.actions = h("div", { class: "actions" });
    this.element = h(
      "article",
      { class: "card watch", "data-id": job.id },
      this.picture,
      h("div", { class: "body" }, h("p", { class: "prompt", dir: "auto" }, promptOf(job)), this.about, this.bar, this.state, this.actions),
    );
    this.shown = null;
    this.wasMade = false;
    this.update(job);
  }

  update(job) {
    const running = isUnfinished(job);
    this.wasMade ||= running;
    this.about.textContent = aboutOf(job);
    this.bar.value = job.progress;
    this.bar.hidden = !running;
    tell(this.state, stateOf(job));
    this.element.classList.toggle("failed", job.status === "failed");
    this.element.classList.toggle("waits", job.status === "queued");
    const shown = `${job.status} ${job.preview > 0} ${job.cancelling}`;
    if (shown !== this.shown) {
      this.shown = shown;
      this.image = null;
      letGo(this.picture);
      const open = () => view(job);
      if (job.status === "completed") fillWith(this.picture, face(job, open, { plays: this.wasMade }));
      else if (job.preview > 0 && job.status === "in_progress") {
        this.image = h("img", { alt: "" });
        fillWith(this.picture, h("button", { type: "button", class: "face", "aria-label": T.watch.full, on: { click: open } }, this.image));
      } else fillWith(this.picture, h("div", { class: running ? "blank" : "blank failed" }, running ? "" : "!"));
      fillWith(this.actions, running ? buttonsWhileMade(job) : buttonsAfter(job));
    }
    if (this.image && job.preview !== this.preview) this.image.src = previewUrl(job);
    this.preview = this.image && job.preview;
  }
}

function buttonsAfter(job) {
  if (job.status !== "failed") return [button(T.watch.details, () => view(job))];
  return [
    button(T.gallery.reuse, () => start("use", job)),
    button(T.watch.dismiss, () => erase(job)),
  ];
}
