// The jobs of this key: loaded once, then kept up to date by one event stream that all tabs share.
import { get } from "./api.js";

const CHANNEL = "videodit-events";
const RETRY = 3000; // milliseconds
const KEPT = 200; // finished jobs, of which the newest are shown somewhere

/** Whether a job waits or runs. */
export function isUnfinished(job) {
  return ["queued", "in_progress"].includes(job.status);
}

/** All jobs of a status, however many pages they are. */
async function allOf(status) {
  const found = [];
  const asked = new URLSearchParams({ limit: 100, status });
  for (;;) {
    const page = await get(`/v1/videos?${asked}`);
    found.push(...page.data);
    if (!page.has_more) return found;
    asked.set("after", page.last_id);
  }
}

class Jobs extends EventTarget {
  constructor() {
    super();
    this.byId = new Map();
    this.positions = {};
    this.online = true;
    this.revision = 0; // the newest change that was seen
  }

  /** Loads the newest jobs and all that are not finished, and listens. */
  async start() {
    const newest = get("/v1/videos?limit=50").then((page) => page.data);
    for (const list of await Promise.all([newest, allOf("queued"), allOf("in_progress")])) {
      for (const job of list) {
        this.byId.set(job.id, job);
        this.revision = Math.max(this.revision, job.revision);
      }
    }
    this.changed();
    this.listen();
  }

  /** Takes a job as the server tells it; an older state than the one that is known is passed over. */
  take(job) {
    const known = this.byId.get(job.id);
    if (job.deleted) this.byId.delete(job.id);
    else if (!known || (job.revision ?? 0) >= (known.revision ?? 0)) this.byId.set(job.id, job);
    else return;
    if (this.byId.size > 2 * KEPT) for (const old of this.finished().slice(KEPT)) this.byId.delete(old.id);
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
    const queued = this.all().filter((job) => job.status === "queued");
    return queued.sort((a, b) => this.placeOf(a) - this.placeOf(b) || 0); // of two that are paused: NaN
  }

  placeOf(job) {
    return this.positions[job.id] ?? (job.paused ? Infinity : job.queue_position || Infinity);
  }

  /** Has those that wait stand in another order until the server says how they stand: they share out their places. */
  arrange(ids) {
    const moved = ids.map((id) => this.byId.get(id)).filter((job) => job && !job.paused);
    const places = moved.map((job) => this.placeOf(job)).sort((a, b) => a - b);
    this.positions = { ...this.positions, ...Object.fromEntries(moved.map((job, index) => [job.id, places[index]])) };
    this.changed();
  }

  /** The newest first, without those in the bin. */
  finished() {
    const done = this.all().filter((job) => !isUnfinished(job) && !job.binned_at);
    return done.sort((a, b) => b.created - a.created || (a.id < b.id ? 1 : -1));
  }

  /** One tab holds the lock and the stream, the others get what it gets. */
  listen() {
    const channel = new BroadcastChannel(CHANNEL);
    channel.onmessage = ({ data }) => this.receive(data);
    const open = () =>
      new Promise(() => {
        const connect = () => {
          const source = new EventSource(`/v1/events?after=${this.revision}`);
          const pass = (kind) => (event) => {
            const message = { kind, data: event.data ? JSON.parse(event.data) : null, revision: Number(event.lastEventId) || 0 };
            this.receive(message);
            channel.postMessage(message);
          };
          source.addEventListener("video", pass("video"));
          source.addEventListener("queue", pass("queue"));
          source.addEventListener("open", pass("open"));
          source.onerror = (event) => {
            pass("lost")(event);
            if (source.readyState !== EventSource.CLOSED) return; // it connects again by itself
            get("/v1/videos?limit=1").catch(() => {}); // asks for a key, if that is why
            setTimeout(connect, RETRY);
          };
        };
        connect();
      });
    if (navigator.locks) navigator.locks.request(CHANNEL, open);
    else open();
  }

  receive({ kind, data, revision }) {
    this.revision = Math.max(this.revision, revision);
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
