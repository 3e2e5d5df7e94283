// What the server can make clips with.
import { get } from "./api.js";
import { fillWith, h } from "./dom.js";
import { T, fill } from "./strings.js";
import { bytesInWords, sizeInWords } from "./words.js";

const M = T.models;

function row(name, value) {
  return value ? [h("dt", {}, name), h("dd", {}, value)] : [];
}

export class Models {
  constructor() {
    this.element = h("section", { "aria-label": M.title });
  }

  async show() {
    const [models, loras] = await Promise.all([get("/v1/models"), get("/v1/loras")]);
    fillWith(
      this.element,
      h("h2", {}, M.title),
      models.data.length ? h("div", { class: "grid wide" }, models.data.map((model) => this.model(model))) : h("p", { class: "empty" }, M.loading),
      h("h2", {}, M.loras),
      loras.data.length ? h("div", { class: "grid wide" }, loras.data.map((lora) => this.lora(lora))) : h("p", { class: "empty" }, M.none),
    );
  }

  model(model) {
    const own = model.defaults;
    const needless = (name, value) => name.startsWith("needs_") && !value;
    const takes = Object.entries(model.takes).filter((one) => !needless(...one)).map(([name, value]) => {
      const ok = Array.isArray(value) ? value.length > 0 : value;
      const more = Array.isArray(value) && ok ? `: ${value.join(", ")}` : "";
      const sign = h("span", { "aria-label": ok ? M.yes : M.no, role: "img" }, ok ? "✓" : "–");
      return h("li", { class: ok ? "ok" : "lacking" }, sign, `${T.takes[name] ?? name.replaceAll("_", " ")}${more}`);
    });
    return h(
      "article",
      { class: "card" },
      h("div", { class: "body" },
        h("h3", {}, model.id, model.default ? h("span", { class: "tag" }, M.isDefault) : null),
        h("dl", {},
          row(M.own, fill(M.ownValues, { size: sizeInWords(own.size), frames: own.num_frames, fps: own.fps, steps: own.num_inference_steps })),
          row(M.bytes, model.bytes && bytesInWords(model.bytes)),
          row(M.licence, model.licence ?? M.licenceUnknown),
          row(M.pipeline, model.pipeline),
          row(M.loras, model.loras.join(", ")),
        ),
        h("ul", { class: "takes", "aria-label": M.takes }, takes),
      ),
    );
  }

  lora(lora) {
    const errors = Object.entries(lora.errors ?? {}).map(([model, why]) => `${model}: ${why}`);
    return h(
      "article",
      { class: "card" },
      h("div", { class: "body" },
        h("h3", {}, lora.id),
        lora.known ? null : h("p", { class: "about" }, M.loading),
        h("dl", {},
          row(M.fits, lora.models.join(", ")),
          row(M.bytes, lora.bytes && bytesInWords(lora.bytes)),
          row(M.triggers, (lora.trigger_words ?? []).join(", ")),
          row(M.notices, (lora.notices ?? []).join(" ")),
          row(M.fitsNot, errors.join("\n")),
        ),
      ),
    );
  }
}
