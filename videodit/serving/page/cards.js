// A job as a card: its preview or clip, what it does, and what can be done with it.
import { contentUrl, post, previewUrl } from "./api.js";
import { button, dialog, fillWith, h, say } from "./dom.js";
import { jobs } from "./jobs.js";
import { T, fill } from "./strings.js";

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
    return job.seconds_left ? `${stage}, ${fill(W.left, { seconds: Math.ceil(job.seconds_left) })}` : stage;
  }
  if (job.status === "failed") {
    if (job.error?.code === "cancelled") return W.cancelled;
    return fill(W.failed, { message: job.error?.message ?? "" });
  }
  return "";
}

export async function act(work) {
  try {
    const job = await work();
    if (job?.object === "video") jobs.take(job);
    return job;
  } catch (error) {
    say(error.status === 429 ? T.errors.busy : fill(T.errors.generic, { message: error.message }));
    return null;
  }
}

/** A card that is kept up to date by `update(job)`. */
export class WatchCard {
  constructor(job) {
    this.picture = h("div", { class: "picture" });
    this.bar = h("progress", { max: 100, value: 0, "aria-label": job.prompt ?? "" });
    this.state = h("div", { class: "state" });
    this.actions = h("div", { class: "actions" });
    this.element = h(
      "article",
      { class: "card watch", "data-id": job.id },
      this.picture,
      h("div", { class: "body" }, h("p", { class: "prompt" }, job.prompt ?? ""), this.bar, this.state, this.actions),
    );
    this.shown = null;
    this.update(job);
  }

  update(job) {
    this.bar.value = job.progress;
    this.bar.hidden = !["queued", "in_progress"].includes(job.status);
    this.state.textContent = stateOf(job);
    this.element.classList.toggle("failed", job.status === "failed");
    const shown = `${job.status} ${job.preview > 0} ${job.cancelling}`;
    if (shown !== this.shown) {
      this.shown = shown;
      this.image = null;
      if (job.status === "completed") fillWith(this.picture, player(job));
      else if (job.preview > 0 && job.status === "in_progress") {
        this.image = h("img", { alt: "" });
        fillWith(this.picture, this.image);
      } else fillWith(this.picture, h("div", { class: "blank" }));
      fillWith(this.actions, actionsOf(job));
    }
    if (this.image) this.image.src = previewUrl(job);
  }
}

function actionsOf(job) {
  const path = `/v1/videos/${job.id}`;
  if (["queued", "in_progress"].includes(job.status) && !job.cancelling) {
    return [
      button(T.watch.cancel, () => act(() => post(`${path}/cancel`))),
      job.status === "in_progress" && job.settings.windows > 1
        ? button(T.watch.keep, () => act(() => post(`${path}/cancel?keep=true`)))
        : null,
    ];
  }
  return [];
}

/** A clip that plays when one points at it, and opens large. */
export function player(job) {
  const video = h("video", {
    src: contentUrl(job),
    poster: contentUrl(job, "thumbnail"),
    preload: "none",
    muted: true,
    loop: true,
    playsinline: true,
    tabindex: 0,
    "aria-label": job.prompt ?? "",
  });
  video.muted = true;
  const play = () => video.play().catch(() => {});
  const stop = () => video.pause();
  video.addEventListener("pointerenter", play);
  video.addEventListener("pointerleave", stop);
  video.addEventListener("focus", play);
  video.addEventListener("blur", stop);
  video.addEventListener("click", () => openLarge(job));
  video.addEventListener("keydown", (event) => {
    if (event.key === "Enter") openLarge(job);
  });
  return video;
}

function openLarge(job) {
  const video = h("video", { src: contentUrl(job), controls: true, loop: true, autoplay: true, playsinline: true });
  video.muted = true;
  dialog(job.prompt ?? "", T.watch.close, video, h("p", { class: "prompt" }, job.prompt ?? ""));
}
