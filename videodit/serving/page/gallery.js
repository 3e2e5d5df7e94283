// Finished clips: looked for on the server, a page at a time, marked, compared and used again.
import { get } from "./api.js";
import { aboutOf, act } from "./cards.js";
import { menuOf } from "./clip_actions.js";
import { compare } from "./compare.js";
import { button, fillWith, h } from "./dom.js";
import { chooseRecipe } from "./drops.js";
import { face, letGo, promptOf, whenSeen } from "./face.js";
import { isUnfinished, jobs } from "./jobs.js";
import { T, fill } from "./strings.js";
import { view } from "./viewer.js";

const G = T.gallery;
const PAGE = 48;
const SHOWS = {
  clips: { status: "completed" },
  favourites: { status: "completed", favourite: true },
  bin: { binned: true },
  failed: { status: "failed" },
};
const ORDERS = {
  newest: ["created", "desc"], oldest: ["created", "asc"], longest: ["seconds", "desc"], shortest: ["seconds", "asc"],
  largest: ["bytes", "desc"], prompt: ["prompt", "asc"],
};

export class Gallery {
  constructor() {
    this.cards = new Map();
    this.items = [];
    this.asked = 0;
    this.compared = null;
    this.search = h("input", { type: "search", placeholder: G.search, "aria-label": G.search, maxlength: 500, dir: "auto" });
    this.which = h("select", { "aria-label": G.which }, Object.keys(SHOWS).map((name) => h("option", { value: name }, G.shows[name])));
    this.order = h("select", { "aria-label": G.order }, Object.keys(ORDERS).map((name) => h("option", { value: name }, G.orders[name])));
    this.comparing = h("div", { class: "comparing", role: "status", hidden: true }, h("span", {}, G.comparing), button(T.cancel, () => this.compare(null)));
    this.grid = h("div", { class: "grid" });
    this.empty = h("p", { class: "empty", hidden: true });
    this.more = button(G.showMore, () => this.load(), { hidden: true });
    this.element = h(
      "section",
      { "aria-label": G.title },
      h("div", { class: "toolbar" }, this.search, this.which, this.order, button(G.read, () => chooseRecipe(), { title: G.readHint })),
      this.comparing,
      this.grid,
      this.empty,
      h("div", { class: "center" }, this.more),
    );
    for (const control of [this.which, this.order]) control.addEventListener("input", () => this.reload());
    this.search.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.reload(), 200);
    });
    whenSeen(this.more, (seen) => {
      if (seen && !this.more.hidden) this.load();
    });
    this.grid.addEventListener("keydown", (event) => this.walk(event));
    jobs.addEventListener("change", ({ detail }) => this.changed(detail));
  }

  /** Called when the gallery comes to the front. */
  show() {
    if (!this.loaded || this.stale) this.reload();
  }

  address(after) {
    const [sort, order] = ORDERS[this.order.value];
    const values = { limit: PAGE, sort, order, ...SHOWS[this.which.value] };
    if (this.search.value.trim()) values.query = this.search.value.trim();
    if (after) values.after = after;
    return `/v1/videos?${new URLSearchParams(values)}`;
  }

  /** Looks again, from the beginning. */
  async reload() {
    this.asked += 1;
    this.loading = false;
    this.stale = false;
    const asked = this.asked;
    const page = await act(() => get(this.address()));
    if (!page || asked !== this.asked) return;
    this.loaded = true;
    this.items = page.data;
    this.hasMore = page.has_more;
    this.lastId = page.last_id;
    this.place();
  }

  async load() {
    if (this.loading || !this.hasMore) return;
    this.loading = true;
    const asked = this.asked;
    const page = await act(() => get(this.address(this.lastId)));
    if (asked !== this.asked) return;
    this.loading = false;
    if (!page) return;
    const known = new Set(this.items.map((job) => job.id));
    this.items.push(...page.data.filter((job) => !known.has(job.id)));
    this.hasMore = page.has_more;
    this.lastId = page.last_id ?? this.lastId;
    this.place();
  }

  /** A job that is shown changes or goes; one that is not shown, but may belong here, has the list looked up again. */
  changed({ job, before }) {
    if (!job || !this.loaded) return;
    const index = this.items.findIndex((one) => one.id === job.id);
    const fits = this.fits(job);
    if (index >= 0) {
      if (fits) this.items[index] = job;
      else this.items.splice(index, 1);
      this.place();
    } else if (fits && (!before || before.status !== job.status || Boolean(before.binned_at) !== Boolean(job.binned_at) || before.favourite !== job.favourite)) {
      if (!this.element.isConnected) this.stale = true;
      else {
        clearTimeout(this.soon);
        this.soon = setTimeout(() => this.reload(), 300);
      }
    }
  }

  fits(job) {
    if (job.deleted || isUnfinished(job)) return false;
    const wanted = SHOWS[this.which.value];
    return Boolean(wanted.binned) === Boolean(job.binned_at) && (!wanted.status || wanted.status === job.status) && (!wanted.favourite || job.favourite);
  }

  place() {
    const ids = new Set(this.items.map((job) => job.id));
    let left = -1; // the place of a card that goes with the focus
    for (const [id, card] of this.cards) {
      if (!ids.has(id)) {
        if (card.element.contains(document.activeElement)) left = [...this.grid.children].indexOf(card.element);
        letGo(card.element);
        card.element.remove();
        this.cards.delete(id);
      }
    }
    this.items.forEach((job, index) => {
      const element = this.card(job);
      if (this.grid.children[index] !== element) this.grid.insertBefore(element, this.grid.children[index] ?? null);
    });
    const filtered = this.search.value.trim() || this.which.value !== "clips";
    this.empty.textContent = filtered ? G.nothing[this.search.value.trim() ? "clips" : this.which.value] : G.empty;
    this.empty.hidden = this.items.length > 0;
    this.more.hidden = !this.hasMore;
    if (left >= 0) (this.grid.children[Math.min(left, this.items.length - 1)]?.querySelector("button") ?? this.search).focus();
  }

  /** A card has its contents while it is near the screen; else it keeps its place alone. */
  card(job) {
    const known = this.cards.get(job.id);
    if (known) {
      const changed = known.job.revision !== job.revision;
      known.job = job;
      if (changed && known.seen) this.fillCard(known);
      return known.element;
    }
    const card = { job, seen: false, element: h("article", { class: "card clip", "data-id": job.id }) };
    this.cards.set(job.id, card);
    whenSeen(card.element, (seen) => {
      if (seen === card.seen) return;
      card.seen = seen;
      if (seen) {
        card.element.style.height = "";
        this.fillCard(card);
      } else {
        card.element.style.height = `${card.element.offsetHeight}px`;
        letGo(card.element);
        fillWith(card.element);
      }
    });
    return card.element;
  }

  fillCard(card) {
    const { job, element } = card;
    const name = element.contains(document.activeElement) ? document.activeElement.className : null;
    const open = () => view(job, this.items);
    const options = { compare: job.status === "completed" ? () => this.compare(job) : null, details: open };
    element.classList.toggle("failed", job.status === "failed");
    letGo(element);
    fillWith(
      element,
      h("div", { class: "picture" }, job.status === "completed" ? face(job, open) : h("div", { class: "blank failed" }, "!")),
      h(
        "div",
        { class: "body" },
        h("p", { class: "prompt", dir: "auto" }, promptOf(job)),
        job.status === "failed" ? h("p", { class: "bad fault" }, job.error?.message ?? "") : null,
        h("p", { class: "about" }, aboutOf(job)),
        h("div", { class: "actions" }, menuOf(job, options)),
      ),
    );
    if (name) [...element.querySelectorAll("button")].find((one) => one.className === name)?.focus();
  }

  /** The first of two is kept until the second is chosen; `null` forgets it. */
  compare(job) {
    if (job && this.compared && this.compared.id !== job.id) {
      compare(this.compared, job);
      job = null;
    }
    this.compared = job;
    this.comparing.hidden = !job;
    this.comparing.querySelector("span").textContent = job ? fill(G.comparing, { prompt: promptOf(job).slice(0, 80) }) : "";
  }

  /** Arrow keys lead from clip to clip. */
  walk(event) {
    if (!event.target.matches(".face")) return;
    const columns = getComputedStyle(this.grid).gridTemplateColumns.split(" ").length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = [...this.grid.children].indexOf(event.target.closest(".card"));
    this.grid.children[at + by]?.querySelector(".face")?.focus();
  }
}
