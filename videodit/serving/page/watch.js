// What is being made: running jobs, those that wait, and the newest that are finished; and word of it elsewhere.
import { WatchCard } from "./cards.js";
import { button, h, say } from "./dom.js";
import { letGo } from "./face.js";
import { jobs } from "./jobs.js";
import { T } from "./strings.js";

const NEWEST = 6;
const address = (name) => new URL(name, import.meta.url).href;
const ICONS = { usual: address("icon.svg"), done: address("icon-done.svg") };

export class Watch {
  constructor() {
    this.cards = new Map();
    this.list = h("div", { class: "list" });
    this.empty = h("p", { class: "empty" }, T.watch.empty);
    this.tell = button(T.watch.notify, () => this.askToNotify(), { class: "quiet", hidden: true });
    this.element = h("section", { class: "watching", "aria-label": T.watch.title }, h("div", { class: "heading" }, h("h2", {}, T.watch.title), this.tell), this.list, this.empty);
    jobs.addEventListener("change", ({ detail }) => {
      this.show();
      this.mention(detail);
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.unmark();
    });
    this.showTell();
  }

  /** Finished ones stay where they were made. */
  show() {
    const shown = [...jobs.running(), ...jobs.waiting().slice(0, NEWEST), ...jobs.finished().slice(0, NEWEST)];
    const ids = new Set(shown.map((job) => job.id));
    for (const [id, card] of this.cards) {
      if (!ids.has(id)) {
        letGo(card.element);
        card.element.remove();
        this.cards.delete(id);
      }
    }
    shown.forEach((job, index) => {
      let card = this.cards.get(job.id);
      if (!card) this.cards.set(job.id, (card = new WatchCard(job)));
      else card.update(job);
      if (this.list.children[index] !== card.element) this.list.insertBefore(card.element, this.list.children[index] ?? null);
    });
    this.empty.hidden = shown.length > 0;
  }

  /** The title says how far the first job is; that one is done, title, icon and system say where nobody looks. */
  mention({ job, before }) {
    if (job?.status === "completed" && before && before.status !== "completed" && document.hidden) {
      this.marked = true;
      document.title = `✓ ${T.watch.finishedTitle}`;
      document.querySelector("link[rel=icon]").href = ICONS.done;
      if (window.Notification?.permission === "granted") new Notification(T.watch.finishedTitle, { body: (job.prompt ?? "").slice(0, 200), icon: ICONS.usual, tag: job.id });
    } else if (!this.marked) {
      const running = jobs.running()[0];
      document.title = running ? `${running.progress} % · ${T.name}` : T.name;
    }
  }

  unmark() {
    this.marked = false;
    document.querySelector("link[rel=icon]").href = ICONS.usual;
    this.mention({});
  }

  showTell() {
    this.tell.hidden = window.Notification?.permission !== "default";
  }

  async askToNotify() {
    const answer = await Notification.requestPermission();
    this.showTell();
    say(answer === "granted" ? T.watch.notifying : T.watch.notNotifying, "notice");
  }
}
