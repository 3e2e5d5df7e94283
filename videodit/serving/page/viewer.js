// One job in full: its clip or its live preview, all that is known of it, and the ones before and after it.
import { contentUrl, previewUrl } from "./api.js";
import { buttonsWhileMade, stateOf } from "./cards.js";
import { menuOf } from "./clip_actions.js";
import { fillWith, h, panel, tell } from "./dom.js";
import { letGo, promptOf } from "./face.js";
import { isUnfinished, jobs } from "./jobs.js";
import { T, fill } from "./strings.js";
import { lengthInWords, lorasInWords, sizeInWords } from "./words.js";

const V = T.viewer;

/** Opens a job. `others`: jobs that the arrow keys lead to. */
export function view(job, others = []) {
  const media = h("div", { class: "full" });
  const state = h("p", { class: "state", role: "status" });
  const bar = h("progress", { max: 100, "aria-label": V.progress });
  const about = h("div", { class: "facts" });
  const actions = h("div", { class: "actions" });
  const box = panel(V.title, { class: "wide viewer" }, media, bar, state, actions, about);
  let shown = null;

  function show(one) {
    const kind = `${one.id} ${one.status} ${one.preview > 0} ${one.cancelling} ${one.favourite} ${one.binned_at}`;
    const running = isUnfinished(one);
    job = one;
    bar.hidden = !running;
    bar.value = one.progress;
    tell(state, stateOf(one));
    state.classList.toggle("bad", one.status === "failed");
    if (kind !== shown) {
      const sameMedia = shown?.split(" ").slice(0, 3).join(" ") === kind.split(" ").slice(0, 3).join(" ");
      shown = kind;
      if (!sameMedia) fillMedia(one);
      fillWith(actions, running ? buttonsWhileMade(one) : menuOf(one, { flat: true, close: () => box.close() }));
      fillWith(about, h("p", { class: "whole-prompt", dir: "auto" }, promptOf(one)), factsOf(one));
    }
    const image = media.querySelector("img");
    if (image && one.preview > 0) image.src = previewUrl(one);
  }

  function fillMedia(one) {
    letGo(media);
    if (one.status === "completed") {
      const video = h("video", { src: contentUrl(one), controls: true, loop: true, playsinline: true, "aria-label": promptOf(one) });
      video.muted = true;
      fillWith(media, video);
      video.play().catch(() => {});
    } else if (one.status === "in_progress" && one.preview > 0) fillWith(media, h("img", { alt: V.preview }));
    else fillWith(media);
  }

  const changed = ({ detail }) => {
    if (detail.job?.id !== job.id) return;
    if (detail.job.deleted) box.close();
    else show(detail.job);
  };
  jobs.addEventListener("change", changed);
  box.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target.matches("video, input")) return;
    const next = others[others.findIndex((one) => one.id === job.id) + by];
    if (next) show(jobs.byId.get(next.id) ?? next);
  });
  box.addEventListener("close", () => {
    jobs.removeEventListener("change", changed);
    letGo(media);
  });
  show(jobs.byId.get(job.id) ?? job);
  return box;
}

function factsOf(job) {
  const s = job.settings ?? {};
  const asked = job.request ?? {};
  const date = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString() : null);
  const rows = [
    [V.model, job.model],
    [V.size, job.size && sizeInWords(job.size)],
    [V.length, job.seconds && fill(V.lengthOf, { length: lengthInWords(job.seconds), frames: s.num_frames, fps: s.fps && +s.fps.toFixed(3) })],
    [V.seed, job.seed],
    [V.steps, s.steps],
    [V.guidance, s.guidance_scale],
    [V.negative, asked.negative_prompt],
    [V.accelerate, asked.accelerate],
    [V.loras, lorasInWords(asked.lora ?? [])],
    [V.notices, (job.notices ?? []).join("; ")],
    [V.made, date(job.completed_at ?? job.created_at)],
    [V.kept, job.status === "completed" && !job.favourite ? date(job.expires_at) : null],
    [V.id, job.id],
  ];
  return h("dl", {}, rows.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false).map(([name, value]) => [h("dt", {}, name), h("dd", { dir: "auto" }, String(value))]));
}
