// Where the prompt is written: words that the model knows are offered, and earlier prompts come back.
import { button, fillWith, h, labelled } from "./dom.js";
import { read, write } from "./kept.js";
import { T } from "./strings.js";

const M = T.make;
const HISTORY = "videodit-history";
const MOST_KEPT = 50;
const MOST_WORDS = 6;

export class PromptBox {
  /** `words` gives the words that are offered; `onChange` is called when the text changed. */
  constructor(words, onChange) {
    this.words = words;
    this.onChange = onChange;
    this.chosen = -1;
    this.hints = h("div", { class: "hints", id: "hints", role: "listbox", "aria-label": M.hints, hidden: true });
    this.area = h("textarea", {
      rows: 3, placeholder: M.promptPlaceholder, maxlength: 20000, spellcheck: "true", dir: "auto",
      "aria-describedby": "plan", "aria-autocomplete": "list", "aria-controls": "hints",
    });
    this.earlier = button(M.history, () => this.showHistory(), { class: "quiet", "aria-expanded": "false", "aria-controls": "history" });
    this.list = h("div", { class: "history", id: "history", role: "group", "aria-label": M.history, hidden: true });
    this.field = labelled(M.prompt, this.area);
    this.label = this.field.querySelector("label");
    this.element = h("div", { class: "prompt-box" }, this.field, this.hints, h("div", { class: "row end" }, this.earlier), this.list);
    this.area.addEventListener("input", () => this.suggest());
    this.area.addEventListener("click", () => this.suggest());
    this.area.addEventListener("blur", () => this.hide());
    this.area.addEventListener("keydown", (event) => this.onKey(event));
    this.list.addEventListener("keydown", (event) => this.onHistoryKey(event));
    this.hints.addEventListener("pointerdown", (event) => event.preventDefault()); // the text keeps the focus
  }

  get text() {
    return this.area.value.trim();
  }

  set(text) {
    this.area.value = text ?? "";
    this.hide();
  }

  /** Puts a word in at the cursor. */
  insert(word) {
    const before = this.area.value.slice(0, this.area.selectionStart);
    this.area.setRangeText(before && !/\s$/.test(before) ? ` ${word}` : word, this.area.selectionStart, this.area.selectionEnd, "end");
    this.onChange();
  }

  remember() {
    if (!this.text) return;
    write(HISTORY, [this.text, ...read(HISTORY, []).filter((one) => one !== this.text)].slice(0, MOST_KEPT));
  }

  // ---- words ----

  suggest() {
    const before = this.area.value.slice(0, this.area.selectionStart);
    this.start = before.match(/[\p{L}]+$/u)?.[0]?.toLowerCase() ?? "";
    const fitting = this.start ? this.words().filter((word) => word.startsWith(this.start) && word !== this.start).slice(0, MOST_WORDS) : [];
    this.chosen = -1;
    fillWith(this.hints, fitting.map((word, index) => h("div", { class: "hint", role: "option", id: `hint${index}`, "aria-selected": "false", on: { click: () => this.complete(word) } }, word)));
    this.hints.hidden = fitting.length === 0;
    this.area.removeAttribute("aria-activedescendant");
  }

  hide() {
    this.hints.hidden = true;
    this.chosen = -1;
    this.area.removeAttribute("aria-activedescendant");
  }

  choose(index) {
    const options = [...this.hints.children];
    this.chosen = (index + options.length) % options.length;
    options.forEach((option, at) => option.setAttribute("aria-selected", String(at === this.chosen)));
    this.area.setAttribute("aria-activedescendant", `hint${this.chosen}`);
  }

  complete(word) {
    const at = this.area.selectionStart;
    this.area.setRangeText(`${word} `, at - this.start.length, this.area.value[at] === " " ? at + 1 : at, "end");
    this.hide();
    this.area.focus();
    this.onChange();
  }

  /** Arrows choose a word, Tab and Enter take it, Esc puts the words away; without a choice keys do what they always do. */
  onKey(event) {
    if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      event.preventDefault();
      this.walk(event.key === "ArrowUp" ? 1 : -1);
      return;
    }
    if (this.hints.hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const none = this.chosen < 0;
      this.choose(event.key === "ArrowDown" ? this.chosen + 1 : none ? -1 : this.chosen - 1);
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.hide();
    } else if ((event.key === "Tab" || event.key === "Enter") && this.chosen >= 0 && !event.shiftKey) {
      event.preventDefault();
      this.complete(this.hints.children[this.chosen].textContent);
    }
  }

  // ---- earlier prompts ----

  /** Alt and arrows walk through earlier prompts, as in a shell. */
  walk(by) {
    const prompts = read(HISTORY, []);
    const now = prompts.indexOf(this.text);
    const next = now + by;
    if (next < -1 || next >= prompts.length) return;
    this.set(next < 0 ? "" : prompts[next]);
    this.onChange();
  }

  showHistory(open = this.list.hidden) {
    this.list.hidden = !open;
    this.earlier.setAttribute("aria-expanded", String(open));
    const prompts = read(HISTORY, []);
    const take = (prompt) => {
      this.set(prompt);
      this.showHistory(false);
      this.area.focus();
      this.onChange();
    };
    fillWith(this.list, prompts.length ? prompts.map((prompt) => button(prompt, () => take(prompt), { class: "line", dir: "auto" })) : h("small", {}, M.historyEmpty));
    if (open) this.list.querySelector("button")?.focus();
  }

  onHistoryKey(event) {
    const lines = [...this.list.querySelectorAll("button")];
    const at = lines.indexOf(document.activeElement);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      lines[(at + (event.key === "ArrowDown" ? 1 : -1) + lines.length) % lines.length]?.focus();
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.showHistory(false);
      this.earlier.focus();
    }
  }
}
