// The machine that serves this page.
import { get } from "./api.js";
import { fillWith, h } from "./dom.js";
import { T } from "./strings.js";

export class System {
  constructor() {
    this.element = h("section", { "aria-label": T.system.title });
  }

  async show() {
    const found = await get("/v1/system").catch(() => get("/ready"));
    fillWith(this.element, h("div", { class: "card" }, h("div", { class: "body" }, this.list(found))));
  }

  list(values) {
    return h(
      "dl",
      {},
      Object.entries(values).map(([name, value]) => [
        h("dt", {}, name.replaceAll("_", " ")),
        h("dd", {}, value !== null && typeof value === "object" ? (Array.isArray(value) ? value.join(", ") || "–" : this.list(value)) : String(value)),
      ]),
    );
  }
}
