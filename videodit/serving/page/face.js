// The face of a clip: its first frame, and the clip itself while one points at it. Off the screen it is nothing.
import { contentUrl } from "./api.js";
import { h } from "./dom.js";

const MARGIN = "600px"; // how far outside the screen something counts as seen

const watched = new WeakMap();
const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) watched.get(entry.target)?.(entry.isIntersecting);
  },
  { rootMargin: MARGIN },
);

/** Calls `listener(true)` when an element comes near the screen, and `listener(false)` when it goes. */
export function whenSeen(element, listener) {
  watched.set(element, listener);
  observer.observe(element);
}

/**
 * To be called before what is in a part is taken away: its faces are no longer told what is seen, and its videos end.
 * Chromium keeps a picture for ever whose `src` changes when it is no longer on the page.
 */
export function letGo(part) {
  for (const element of part.querySelectorAll(".face")) {
    observer.unobserve(element);
    watched.delete(element); // the observer may still have something to tell
  }
  part.querySelectorAll("video").forEach(release);
}

/** Takes a video away with its decoder and what it has loaded. */
export function release(video) {
  video.pause();
  video.removeAttribute("src");
  video.load();
  video.remove();
}

/** A button that shows a clip. `open` is called when it is pressed; `plays`: from the beginning on, without a pointer. */
export function face(job, open, { plays = false } = {}) {
  const picture = h("img", { alt: "", draggable: "false" });
  const box = h("button", { type: "button", class: "face", "aria-label": openLabel(job), on: { click: open } }, picture);
  let video = null;
  const stop = () => {
    if (video) release(video);
    video = null;
  };
  const play = () => {
    if (video) return;
    video = h("video", { src: contentUrl(job), loop: true, playsinline: true, "aria-hidden": "true" });
    video.muted = true;
    box.append(video);
    video.play().catch(() => {});
  };
  box.addEventListener("pointerenter", play);
  box.addEventListener("pointerleave", () => {
    if (!plays) stop();
  });
  box.addEventListener("focus", () => {
    if (box.matches(":focus-visible")) play();
  });
  box.addEventListener("blur", () => {
    if (!plays) stop();
  });
  whenSeen(box, (seen) => {
    if (seen) picture.src = contentUrl(job, "thumbnail");
    else picture.removeAttribute("src");
    if (seen && plays) play();
    if (!seen) stop();
  });
  return box;
}

function openLabel(job) {
  return (promptOf(job) || job.id).slice(0, 200);
}

/** What a clip shows, in words: its prompt, or the scenes of its storyboard. */
export function promptOf(job) {
  return job.prompt ?? (job.request?.storyboard ?? []).map((scene) => scene.prompt).join(" → ");
}
