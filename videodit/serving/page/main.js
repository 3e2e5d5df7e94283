// The page: its tabs, its theme, and what it does when something happens.
import { post } from "./api.js";
import { WatchCard } from "./cards.js";
import { button, dialog, fillWith, h, labelled, say } from "./dom.js";
import { Gallery } from "./gallery.js";
import { jobs } from "./jobs.js";
import { Make } from "./make.js";
import { Models } from "./models.js";
import { Queue } from "./queue.js";
import { T } from "./strings.js";
import { System } from "./system.js";

const TABS = ["make", "queue", "gallery", "models", "system"];
const NEWEST = 6;

class Watch {
  constructor() {
    this.cards = new Map();
    this.running = h("div", { class: "list" });
    this.empty = h("p", { class: "empty" }, T.watch.empty);
    this.element = h("section", { class: "watching", "aria-label": T.watch.title }, h("h2", {}, T.watch.title), this.running, this.empty);
    jobs.addEventListener("change", () => this.show());
  }

  /** Running jobs, those that wait, and the newest that are finished, which stay where they were made. */
  show() {
    const done = jobs.all().filter((job) => !["queued", "in_progress"].includes(job.status) && !job.binned_at);
    done.sort((a, b) => b.created_at - a.created_at);
    const shown = [...jobs.running(), ...jobs.waiting().slice(0, NEWEST), ...done.slice(0, NEWEST)];
    const ids = new Set(shown.map((job) => job.id));
    for (const [id, card] of this.cards) {
      if (!ids.has(id)) {
        card.element.remove();
        this.cards.delete(id);
      }
    }
    shown.forEach((job, index) => {
      let card = this.cards.get(job.id);
      if (!card) this.cards.set(job.id, (card = new WatchCard(job)));
      else card.update(job);
      if (this.running.children[index] !== card.element) this.running.insertBefore(card.element, this.running.children[index] ?? null);
    });
    this.empty.hidden = shown.length > 0;
  }
}

class Page {
  constructor() {
    this.make = new Make();
    this.watch = new Watch();
    const use = (fields) => {
      this.open("make");
      this.show(); // the form takes the focus, so it must be there
      this.make.use(fields);
    };
    this.gallery = new Gallery(use);
    this.queue = new Queue((job) => use({ ...job.request, seed: job.seed }));
    this.models = new Models();
    this.system = new System();
    this.panels = {
      make: h("div", { class: "make-panel" }, this.make.element, this.watch.element),
      queue: this.queue.element,
      gallery: this.gallery.element,
      models: this.models.element,
      system: this.system.element,
    };
    this.links = {};
    for (const name of TABS) {
      const link = h("a", { href: `#${name}` }, T.tabs[name]);
      this.links[name] = link;
      document.getElementById("tabs").append(link);
    }
    addEventListener("hashchange", () => this.show());
    this.show();
    this.theme();
    this.listen();
  }

  open(name) {
    location.hash = name;
  }

  show() {
    const name = TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "make";
    for (const [one, link] of Object.entries(this.links)) {
      if (one === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    fillWith(document.getElementById("main"), this.panels[name]);
    if (name === "models" || name === "system") this[name].show().catch((error) => say(error.message));
    if (name === "gallery") this.gallery.show();
  }

  theme() {
    const names = ["auto", "light", "dark"];
    let current = localStorage.getItem("videodit-theme") ?? "auto";
    const control = document.getElementById("theme");
    const set = () => {
      document.documentElement.dataset.theme = current;
      control.textContent = T.theme[current];
      localStorage.setItem("videodit-theme", current);
    };
    control.addEventListener("click", () => {
      current = names[(names.indexOf(current) + 1) % names.length];
      set();
    });
    set();
  }

  listen() {
    const status = document.getElementById("status");
    jobs.addEventListener("online", () => {
      status.textContent = jobs.online ? "" : T.errors.offline;
    });
    jobs.addEventListener("change", ({ detail: { job, before } }) => {
      const running = jobs.running()[0];
      const title = running ? `${running.progress} % · videodit` : "videodit";
      if (job?.status === "completed" && before && before.status !== "completed") this.finished();
      else if (!this.marked) document.title = title;
      const waiting = jobs.waiting().length;
      this.links.queue.textContent = waiting ? `${T.tabs.queue} (${waiting})` : T.tabs.queue;
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) {
        this.marked = false;
        document.title = "videodit";
      }
    });
    document.addEventListener("needs-key", () => this.askKey());
  }

  /** Says so where the page is not looked at: in the title, and by the system where that was allowed. */
  finished() {
    if (!document.hidden) return;
    this.marked = true;
    document.title = `✓ ${T.watch.finishedTitle}`;
    if (window.Notification?.permission === "granted") new Notification(T.watch.finishedTitle);
  }

  askKey() {
    if (this.asking) return;
    this.asking = true;
    const key = h("input", { type: "password", autocomplete: "current-password", required: true });
    const form = h("form", {}, h("p", {}, T.login.hint), labelled(T.login.title, key), h("button", { class: "main" }, T.login.go));
    const box = dialog(T.login.title, T.watch.close, form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await post("/login", { key: key.value });
        location.reload();
      } catch {
        say(T.login.wrong);
      }
    });
    box.addEventListener("close", () => (this.asking = false));
  }

  async start() {
    for (;;) {
      try {
        await Promise.all([jobs.start(), this.make.load()]);
        document.body.dataset.ready = "true";
        return;
      } catch (error) {
        if (error.status === 401) return;
        document.getElementById("status").textContent = error.message;
        await new Promise((wake) => setTimeout(wake, 1000));
        document.getElementById("status").textContent = "";
      }
    }
  }
}

const page = new Page();
page.start();
