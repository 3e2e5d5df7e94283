// LoRAs of the server: which of them a clip is made with, and how strongly.
import { button, fillWith, h, tell } from "./dom.js";
import { T, fill } from "./strings.js";

const M = T.make;

export class LoRAs {
  /** `onWord` gets a trigger word that is to go into the prompt. */
  constructor(onWord, onChange) {
    this.onWord = onWord;
    this.onChange = onChange;
    this.rows = [];
    this.box = h("div", { class: "loras" });
    this.element = h("fieldset", {}, h("legend", {}, M.loras), this.box);
  }

  show(loras) {
    this.rows = loras.map((lora) => this.row(lora));
    fillWith(this.box, this.rows.length ? this.rows.map((row) => row.element) : h("small", {}, M.noLoras));
  }

  row(lora) {
    const use = h("input", { type: "checkbox", "data-lora": lora.id });
    const weight = h("input", { type: "number", step: 0.05, value: 1, "aria-label": fill(M.weight, { name: lora.id }) });
    const reason = h("small", { class: "reason", hidden: true });
    const words = (lora.trigger_words ?? []).map((word) => button(word, () => this.onWord(word), { class: "hint", title: M.triggerWord }));
    const element = h("div", {}, h("div", { class: "row lora" }, h("label", { class: "check" }, use, lora.id), weight), words.length ? h("div", { class: "actions" }, words) : null, reason);
    return { lora, use, weight, reason, element, second: undefined };
  }

  fields() {
    const used = this.rows.filter((row) => row.use.checked && !row.use.disabled);
    if (!used.length) return undefined;
    return used.map(({ lora, weight, second }) => ({ name: lora.id, weight: weight.value === "" ? 1 : Number(weight.value), ...(second ? { second } : {}) }));
  }

  put(loras) {
    for (const row of this.rows) {
      const said = loras.find((one) => one.name === row.lora.id);
      row.use.checked = Boolean(said);
      row.weight.value = said?.weight ?? 1;
      row.second = said?.second;
    }
  }

  /** Those that do not go with a model stay visible, with the reason. */
  allow(model) {
    for (const { lora, use, weight, reason } of this.rows) {
      const why = lora.errors?.[model];
      use.disabled = weight.disabled = Boolean(why);
      tell(reason, why);
    }
  }
}
