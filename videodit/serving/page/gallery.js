// Finished clips: looked for, marked, used again.
import { call, contentUrl, post } from "./api.js";
import { act, player } from "./cards.js";
import { button, fillWith, h } from "./dom.js";
import { jobs } from "./jobs.js";
import { T, fill } from "./strings.js";

const G = T.gallery;

export class Gallery {
  /** `use` gets the fields of a request that is to be made again. */
  constructor(use) {
    this.use = use;
    this.cards = new Map();
    this.search = h("input", { type: "search", placeholder: G.search, "aria-label": G.search });
    this.favourites = h("input", { type: "checkbox" });
    this.bin = h("input", { type: "checkbox" });
    this.order = h("select", { "aria-label": "Order" }, h("option", { value: "desc" }, G.newest), h("option", { value: "asc" }, G.oldest));
    this.grid = h("div", { class: "grid" });
    this.empty = h("p", { class: "empty" });
    this.more = button(G.more, () => act(() => jobs.loadMore()), { hidden: true });
    this.element = h(
      "section",
      { "aria-label": G.title },
      h(
        "div",
        { class: "toolbar" },
        this.search,
        h("label", { class: "check" }, this.favourites, G.favourites),
        h("label", { class: "check" }, this.bin, G.bin),
        this.order,
      ),
      this.grid,
      this.empty,
      this.more,
    );
    for (const control of [this.search, this.favourites, this.bin, this.order]) control.addEventListener("input", () => this.show());
    jobs.addEventListener("change", () => this.soon());
  }

  soon() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.show());
  }

  fitting() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const sign = this.order.value === "asc" ? 1 : -1;
    return jobs
      .all()
      .filter((job) => job.status === "completed" && Boolean(job.binned_at) === this.bin.checked)
      .filter((job) => !this.favourites.checked || job.favourite)
      .filter((job) => {
        const text = `${job.prompt ?? ""} ${job.model} ${job.seed} ${job.size}`.toLowerCase();
        return words.every((word) => text.includes(word));
      })
      .sort((a, b) => sign * (a.created_at - b.created_at || (a.id < b.id ? -1 : 1)));
  }

  show() {
    const found = this.fitting();
    const wanted = found.map((job) => this.card(job));
    const ids = new Set(found.map((job) => job.id));
    for (const [id, card] of this.cards) {
      if (!ids.has(id)) {
        card.element.remove();
        this.cards.delete(id);
      }
    }
    wanted.forEach((card, index) => {
      if (this.grid.children[index] !== card) this.grid.insertBefore(card, this.grid.children[index] ?? null);
    });
    const filtered = this.search.value || this.favourites.checked || this.bin.checked;
    this.empty.textContent = found.length ? "" : filtered ? G.nothing : G.empty;
    this.more.hidden = !jobs.hasMore;
  }

  card(job) {
    const known = this.cards.get(job.id);
    const state = `${job.favourite} ${job.binned_at}`;
    if (known) {
      if (known.state !== state) {
        known.state = state;
        fillWith(known.actions, this.actions(job));
      }
      return known.element;
    }
    const actions = h("div", { class: "actions" });
    fillWith(actions, this.actions(job));
    const about = `${(job.size ?? "").replace("x", " × ")}, ${Number(job.seconds).toFixed(2)} s, ${job.model}, seed ${job.seed}`;
    const element = h(
      "article",
      { class: "card", "data-id": job.id },
      h("div", { class: "picture" }, player(job)),
      h("div", { class: "body" }, h("p", { class: "prompt" }, job.prompt ?? ""), h("p", { class: "about" }, about), actions),
    );
    this.cards.set(job.id, { element, actions, state });
    return element;
  }

  actions(job) {
    const path = `/v1/videos/${job.id}`;
    if (job.binned_at) {
      return [
        button(G.restore, () => act(() => post(`${path}/bin`, { binned: false }))),
        button(G.delete, () => act(async () => jobs.take({ ...(await call("DELETE", path)), object: "video" })), { class: "danger" }),
      ];
    }
    const mark = job.favourite ? G.unfavourite : G.favourite;
    return [
      button(job.favourite ? "★" : "☆", () => act(() => post(`${path}/favourite`, { favourite: !job.favourite })), { class: "icon", title: mark, "aria-label": mark, "aria-pressed": String(job.favourite) }),
      button(G.reuse, () => this.use({ ...job.request, seed: job.seed })),
      button(G.again, () => act(() => post(`${path}/copy`).then((made) => made.data.forEach((one) => jobs.take(one))))),
      h(
        "details",
        { class: "menu" },
        h("summary", { "aria-label": G.details }, "⋯"),
        h(
          "div",
          { class: "items" },
          ["mp4", "gif", "webp"].map((format) =>
            h("a", { href: contentUrl(job, format === "mp4" ? "video" : format), download: `${job.id}.${format}` }, fill(G.download, { format: format.toUpperCase() })),
          ),
          button(G.toBin, () => act(() => post(`${path}/bin`, { binned: true }))),
        ),
      ),
    ];
  }
}
