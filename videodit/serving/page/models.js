// What the server can make clips with.
import { get } from "./api.js";
import { fillWith, h } from "./dom.js";
import { T } from "./strings.js";

const M = T.models;

function size(bytes) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 1000 || unit === "GB") return `${bytes.toPrecision(3).replace(/\.?0+$/, "")} ${unit}`;
    bytes /= 1000;
  }
  return "";
}

function row(name, value) {
  return value ? [h("dt", {}, name), h("dd", {}, value)] : [];
}

export class Models {
  constructor() {
    this.element = h("section", { "aria-label": M.title });
  }

  async show() {
    const [models, loras] = await Promise.all([get("/v1/models"), get("/v1/loras").catch(() => ({ data: [] }))]);
    fillWith(
      this.element,
      h("div", { class: "grid wide" }, models.data.map((model) => this.model(model))),
      h("h2", {}, M.loras),
      loras.data.length
        ? h("div", { class: "grid wide" }, loras.data.map((lora) => this.lora(lora)))
        : h("p", { class: "empty" }, M.none),
    );
  }

  model(model) {
    const own = model.defaults;
    const takes = Object.entries(model.takes).map(([name, value]) => {
      const ok = Array.isArray(value) ? value.length > 0 : value;
      const more = Array.isArray(value) && ok ? `: ${value.join(", ")}` : "";
      return h("li", { class: ok ? "ok" : "lacking" }, `${ok ? "✓" : "–"} ${T.takes[name] ?? name.replaceAll("_", " ")}${more}`);
    });
    return h(
      "article",
      { class: "card" },
      h("div", { class: "body" },
        h("h3", {}, model.id),
        h("dl", {},
          row(M.own, `${own.size.replace("x", " × ")}, ${own.num_frames} frames at ${own.fps} fps, ${own.num_inference_steps} steps`),
          row(M.bytes, model.bytes && size(model.bytes)),
          row(M.pipeline, model.pipeline),
          row(M.loras, model.loras.join(", ")),
          [h("dt", {}, M.takes), h("dd", {}, h("ul", { class: "takes" }, takes))],
        ),
      ),
    );
  }

  lora(lora) {
    return h(
      "article",
      { class: "card" },
      h("div", { class: "body" }, h("h3", {}, lora.id), h("dl", {}, row(M.bytes, lora.bytes && size(lora.bytes)), row("Trigger words", (lora.trigger_words ?? []).join(", ")))),
    );
  }
}
