// The machine that serves this page, and who one is there.
import { get } from "./api.js";
import { button, fillWith, h } from "./dom.js";
import { logOut } from "./session.js";
import { T, fill } from "./strings.js";
import { bytesInWords, timeInWords } from "./words.js";

const S = T.system;
const AGAIN = 5000; // milliseconds between two looks while it is in front

export class System {
  constructor() {
    this.element = h("section", { "aria-label": S.title });
  }

  async show() {
    clearTimeout(this.timer);
    try {
      const told = await get("/v1/system");
      const text = JSON.stringify({ ...told, uptime_seconds: timeInWords(told.uptime_seconds) });
      if (text !== this.told) this.fill(told);
      this.told = text;
    } finally {
      this.timer = setTimeout(() => this.element.isConnected && this.show().catch(() => {}), AGAIN);
    }
  }

  fill(told) {
    const focused = this.element.contains(document.activeElement);
    const open = [...this.element.querySelectorAll("details")].map((details) => details.open);
    const out = told.needs_key ? button(S.logOut, logOut) : null;
    const q = told.queue;
    const limits = told.limits;
    fillWith(
      this.element,
      h("div", { class: "grid wide" },
        card(S.server, [
          [S.version, told.version],
          [S.uptime, timeInWords(told.uptime_seconds)],
          [S.owner, told.needs_key ? told.owner : S.anybody],
        ], out),
        told.machines.map((machine) => this.machine(machine)),
        card(S.workers, told.workers.map((worker) => [worker.device ?? S.best, [S.states[worker.state] ?? worker.state, worker.problem].filter(Boolean).join(": ")])),
        card(S.queue, [
          [S.waiting, fill(S.ofMost, { count: q.waiting, most: q.limit })],
          [S.running, String(q.running)],
          [S.ownLimit, String(q.own_limit)],
        ]),
        card(S.storage, [
          [S.own, fill(S.ofMost, { count: bytesInWords(told.storage.own_bytes), most: bytesInWords(told.storage.own_limit_bytes) })],
          [S.disk, fill(S.freeOf, { free: bytesInWords(told.storage.free_bytes), all: bytesInWords(told.storage.disk_bytes) })],
          [S.kept, limits.keep_seconds ? timeInWords(limits.keep_seconds) : S.forEver],
          [S.bin, timeInWords(limits.bin_seconds)],
        ]),
        card(S.limits, [
          [S.pixels, limits.pixels.toLocaleString()],
          [S.frames, String(limits.frames)],
          [S.seconds, String(limits.seconds)],
          [S.steps, String(limits.steps)],
          [S.upload, bytesInWords(limits.body_bytes)],
        ]),
      ),
    );
    this.element.querySelectorAll("details").forEach((details, index) => (details.open = open[index] ?? false));
    if (focused) this.element.querySelector("button")?.focus();
  }

  machine(machine) {
    const backends = Object.entries(machine.attention);
    return h("div", { class: "card" }, h("div", { class: "body" },
      h("h3", {}, fill(S.machine, { device: machine.device })),
      rows([
        [S.device, machine.device_name],
        [S.deviceMemory, machine.device_memory && bytesInWords(machine.device_memory)],
        [S.memory, machine.memory && bytesInWords(machine.memory)],
        [S.dtype, machine.dtype],
        [S.threads, String(machine.threads)],
        [S.attention, backends.filter(([, how]) => how === "works").map(([name]) => name).join(", ")],
      ]),
      h("details", {}, h("summary", {}, S.backends), rows(backends)),
      h("details", {}, h("summary", {}, S.versions), rows(Object.entries(machine.versions))),
    ));
  }
}

function rows(pairs) {
  return h("dl", {}, pairs.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function card(title, pairs, more = null) {
  return h("div", { class: "card" }, h("div", { class: "body" }, h("h3", {}, title), rows(pairs), more && h("div", { class: "actions" }, more)));
}
