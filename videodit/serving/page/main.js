// The page: its tabs, its theme, and what it does when something happens.
import { takeDrops } from "./drops.js";
import { fillWith, h, say } from "./dom.js";
import { Gallery } from "./gallery.js";
import { jobs } from "./jobs.js";
import { read, write } from "./kept.js";
import { Make } from "./make.js";
import { Models } from "./models.js";
import { Queue } from "./queue.js";
import { askForKeys } from "./session.js";
import { T } from "./strings.js";
import { System } from "./system.js";
import { Watch } from "./watch.js";

const THEME = "videodit-theme";
const TABS = ["make", "queue", "gallery", "models", "system"];

class Page {
  constructor() {
    this.make = new Make();
    this.watch = new Watch();
    this.gallery = new Gallery();
    this.queue = new Queue();
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
    let current = read(THEME, "auto");
    const control = document.getElementById("theme");
    const set = () => {
      document.documentElement.dataset.theme = current;
      control.textContent = T.theme[current];
      write(THEME, current);
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
    jobs.addEventListener("change", () => {
      const waiting = jobs.waiting().length;
      this.links.queue.textContent = waiting ? `${T.tabs.queue} (${waiting})` : T.tabs.queue;
    });
    const from = (job) => ({ prompt: job.prompt ?? "", model: job.model, video: { id: job.id } });
    const starts = {
      use: (job) => ({ kind: job.kind, ...job.request, seed: job.seed }),
      loop: (job) => ({ ...job.request, seed: job.seed, loop: true }),
      extend: (job) => ({ ...from(job), mode: "extension" }),
      edit: (job) => ({ ...from(job), mode: "edit" }),
    };
    for (const [kind, fields] of Object.entries(starts)) {
      document.addEventListener(kind, ({ detail }) => {
        this.open("make");
        this.show(); // the form takes the focus, so it must be there
        this.make.use(fields(detail));
      });
    }
    askForKeys();
    takeDrops();
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
