// The jobs of this key: loaded once, then kept up to date by one event stream that all tabs share.
import { get } from "./api.js";

const CHANNEL = "videodit-events";

class Jobs extends EventTarget {
  constructor() {
    super();
    this.byId = new Map();
    this.positions = {};
    this.online = true;
    this.hasMore = false;
  }

  /** Loads the newest jobs and listens. */
  async start() {
    const page = await get("/v1/videos?limit=50");
    for (const job of page.data) this.byId.set(job.id, job);
    this.hasMore = page.has_more;
    this.lastId = page.last_id;
    this.changed();
    this.listen();
  }

  /** Loads a page of older jobs. */
  async loadMore() {
    const page = await get(`/v1/videos?limit=50&after=${encodeURIComponent(this.lastId)}`);
    for (const job of page.data) if (!this.byId.has(job.id)) this.byId.set(job.id, job);
    this.hasMore = page.has_more;
    this.lastId = page.last_id ?? this.lastId;
    this.changed();
  }

  /** Takes a job as the server tells it; an older state than the one that is known is passed over. */
  take(job) {
    const known = this.byId.get(job.id);
    if (job.deleted) this.byId.delete(job.id);
    else if (!known || (job.revision ?? 0) >= (known.revision ?? 0)) this.byId.set(job.id, job);
    else return;
    this.changed(job, known);
  }

  changed(job = null, before = null) {
    this.dispatchEvent(new CustomEvent("change", { detail: { job, before } }));
  }

  setOnline(online) {
    if (online === this.online) return;
    this.online = online;
    this.dispatchEvent(new CustomEvent("online"));
  }

  all() {
    return [...this.byId.values()];
  }

  running() {
    return this.all().filter((job) => job.status === "in_progress");
  }

  waiting() {
    const place = (job) => this.positions[job.id] ?? (job.paused ? Infinity : job.queue_position || Infinity);
    return this.all().filter((job) => job.status === "queued").sort((a, b) => place(a) - place(b));
  }

  /** One tab holds the lock and the stream, the others get what it gets. */
  listen() {
    const channel = new BroadcastChannel(CHANNEL);
    channel.onmessage = ({ data }) => this.receive(data);
    const open = () =>
      new Promise(() => {
        const source = new EventSource(`/v1/events`);
        const pass = (kind) => (event) => {
          const message = { kind, data: event.data ? JSON.parse(event.data) : null };
          this.receive(message);
          channel.postMessage(message);
        };
        source.addEventListener("video", pass("video"));
        source.addEventListener("queue", pass("queue"));
        source.addEventListener("open", pass("open"));
        source.onerror = pass("lost");
      });
    if (navigator.locks) navigator.locks.request(CHANNEL, open);
    else open();
  }

  receive({ kind, data }) {
    if (kind === "lost") this.setOnline(false);
    else this.setOnline(true);
    if (kind === "video") this.take(data);
    if (kind === "queue") {
      this.positions = data.positions;
      this.changed();
    }
  }
}

export const jobs = new Jobs();
