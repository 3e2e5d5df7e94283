// Two clips side by side, on one clock.
import { contentUrl } from "./api.js";
import { button, h, panel } from "./dom.js";
import { promptOf, release } from "./face.js";
import { T, fill } from "./strings.js";
import { lengthInWords, lorasInWords, sizeInWords } from "./words.js";

const C = T.compare;
const DRIFT = 0.06; // seconds that a clip may be off before it is set right

/** Opens both; the shorter one stays on its last frame until the longer one ends. */
export function compare(first, second) {
  const jobs = [first, second];
  const rate = Math.max(...jobs.map((job) => job.settings?.fps ?? 16));
  const length = Math.max(...jobs.map((job) => Number(job.seconds) || 1));
  const videos = jobs.map((job) => {
    const video = h("video", { src: contentUrl(job), playsinline: true, preload: "auto", "aria-label": promptOf(job) });
    video.muted = true;
    return video;
  });
  const seek = h("input", { type: "range", min: 0, max: length, step: 1 / rate, value: 0, "aria-label": C.seek });
  const time = h("output", {}, "");
  const toggle = button(C.pause, () => set(!playing), { class: "main" });
  let playing = true;
  let now = 0;
  let before = null;
  let frame = 0;

  function set(value) {
    playing = value;
    before = null;
    toggle.textContent = playing ? C.pause : C.play;
    if (!playing) videos.forEach((video) => video.pause());
    place();
  }

  function place() {
    for (const video of videos) {
      const end = Math.max(0, (video.duration || length) - 0.5 / rate);
      const target = Math.min(now, end);
      const ended = now >= end;
      if (playing && !ended && video.paused) video.play().catch(() => {});
      if ((!playing || ended) && !video.paused) video.pause();
      if (Math.abs(video.currentTime - target) > (playing && !ended ? DRIFT : 0.5 / rate)) video.currentTime = target;
    }
    seek.value = now;
    time.textContent = fill(C.time, { now: now.toFixed(2), length: length.toFixed(2) });
  }

  function tick(at) {
    if (playing && videos.every((video) => video.readyState >= 2)) {
      if (before !== null) now += (at - before) / 1000;
      if (now >= length) now = 0;
      before = at;
      place();
    } else before = null;
    frame = requestAnimationFrame(tick);
  }

  function step(count) {
    set(false);
    now = Math.min(length, Math.max(0, (Math.round(now * rate) + count) / rate));
    place();
  }

  seek.addEventListener("input", () => {
    now = Number(seek.value);
    set(false);
  });
  const box = panel(
    C.title,
    { class: "wide compare" },
    h(
      "div",
      { class: "pair" },
      jobs.map((job, index) =>
        h("figure", {}, videos[index], h("figcaption", {}, h("p", { class: "prompt", dir: "auto" }, promptOf(job)), h("p", { class: "about" }, differs(job, jobs[1 - index])))),
      ),
    ),
    h("div", { class: "clock" }, toggle, button("◂", () => step(-1), { class: "icon", "aria-label": C.back, title: C.back }), button("▸", () => step(1), { class: "icon", "aria-label": C.forth, title: C.forth }), seek, time),
  );
  box.addEventListener("keydown", (event) => {
    const inControl = event.target.matches("button, input");
    if (event.key === " " && !inControl) set(!playing);
    else if (event.key === "ArrowLeft" && event.target !== seek) step(-1);
    else if (event.key === "ArrowRight" && event.target !== seek) step(1);
    else return;
    event.preventDefault();
  });
  box.addEventListener("close", () => {
    cancelAnimationFrame(frame);
    videos.forEach(release);
  });
  frame = requestAnimationFrame(tick);
  place();
}

/** The settings in which a job is another than the one beside it; its seed if there is none. */
function differs(job, other) {
  const facts = (one) => ({
    size: one.size && sizeInWords(one.size), seconds: lengthInWords(one.seconds), model: one.model, seed: `seed ${one.seed}`,
    steps: `${one.settings?.steps} steps`, guidance: `guidance ${one.settings?.guidance_scale}`,
    accelerate: one.request?.accelerate ?? T.make.accelerateNone,
    lora: lorasInWords(one.request?.lora ?? []) || C.noLora,
  });
  const [own, others] = [facts(job), facts(other)];
  const names = Object.keys(own).filter((name) => own[name] !== others[name]);
  return (names.length ? names : ["seed"]).map((name) => own[name]).join(", ");
}
