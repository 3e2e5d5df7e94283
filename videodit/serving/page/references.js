// References: pictures and clips of what a clip should show, for models that were trained with them or by a LoRA.
import { button, fillWith, h, labelled, tell } from "./dom.js";
import { icon } from "./icons.js";
import { MediaPicker } from "./media.js";
import { T, fill } from "./strings.js";

const S = T.references;

export class References {
  constructor(onChange) {
    this.onChange = onChange;
    this.ways = [];
    this.rows = [];
    this.list = h("div", { class: "list" });
    this.add = button(S.add, () => { this.append().picker.zone.focus(); this.changed(); });
    this.layout = h("select");
    this.guidance = h("input", { type: "number", min: 0, max: 100, step: "any", inputmode: "decimal", placeholder: "1" });
    this.layoutField = labelled(S.layout, this.layout);
    this.guidanceField = labelled(S.guidance, this.guidance);
    this.reason = h("small", { class: "reason", hidden: true });
    this.element = h("div", { class: "steering" }, this.list, h("div", { class: "row" }, this.layoutField, this.guidanceField), h("div", { class: "actions" }, this.add), this.reason);
    this.layout.addEventListener("input", () => this.showLayout());
    this.element.addEventListener("input", () => this.changed());
    this.changed(true);
  }

  /** How a model takes them: in its own layout, or in one that is chosen for a LoRA. Without any, why there is none. */
  allow(references, reason) {
    const { own, layouts = [], needed } = references ?? {};
    this.own = own ?? null;
    this.needed = Boolean(needed);
    this.ways = own ? [own] : layouts;
    fillWith(this.layout, this.ways.map((way) => h("option", { value: way.layout }, S.layouts[way.layout] ?? way.layout)));
    this.add.disabled = !this.ways.length;
    tell(this.reason, this.ways.length ? "" : reason);
    if (!this.ways.length && this.rows.length) this.put([]);
    this.showLayout();
    this.changed(true);
  }

  /** The layout that is chosen. */
  get way() {
    return this.ways.find((way) => way.layout === this.layout.value) ?? this.ways[0] ?? { layout: "", most: 0, roles: [], clips: false };
  }

  append() {
    const row = {};
    row.picker = new MediaPicker(fill(S.number, { number: this.rows.length + 1 }), "any", () => this.changed());
    row.role = h("select");
    row.at = h("input", { type: "number", min: 0, step: 1, inputmode: "numeric", placeholder: "0" });
    row.roleField = labelled(S.role, row.role);
    row.atField = labelled(S.at, row.at);
    const remove = h("button", { type: "button", class: "icon quiet", title: S.remove, "aria-label": S.remove, on: { click: () => this.drop(row) } }, icon("remove"));
    row.element = h("div", { class: "control" }, row.picker.element, h("div", { class: "row" }, row.roleField, row.atField, remove));
    this.rows.push(row);
    this.list.append(row.element);
    this.showRow(row);
    return row;
  }

  showRow(row) {
    const { roles, layout } = this.way;
    const before = row.role.value;
    fillWith(row.role, roles.map((role) => h("option", { value: role }, S.roles[role] ?? role)));
    if (roles.includes(before)) row.role.value = before;
    row.roleField.hidden = roles.length < 2;
    row.atField.hidden = layout !== "guide";
  }

  showLayout() {
    for (const row of this.rows) this.showRow(row);
  }

  drop(row) {
    this.rows = this.rows.filter((one) => one !== row);
    row.picker.set(null, true);
    row.element.remove();
    this.rows.forEach((one, index) => one.picker.rename(fill(S.number, { number: index + 1 })));
    this.add.focus();
    this.changed();
  }

  changed(quiet = false) {
    this.layoutField.hidden = !this.rows.length || Boolean(this.own);
    this.guidanceField.hidden = !this.rows.length || this.way.layout !== "behind";
    this.add.disabled = !this.ways.length || this.rows.length >= this.way.most;
    if (!quiet) this.onChange();
  }

  get pickers() {
    return this.rows.map((row) => row.picker);
  }

  /** What is missing, in words. */
  missing() {
    if (this.needed && !this.rows.length) return { text: S.needed, at: this.add };
    for (const { picker } of this.rows) {
      if (!picker.source) return { text: S.needsMedia, at: picker.zone };
      if (picker.source.kind === "clip" && !this.way.clips) return { text: S.needsPicture, at: picker.zone };
    }
    return this.rows.length > this.way.most ? { text: fill(S.tooMany, { most: this.way.most }), at: this.add } : null;
  }

  /** Fields of a request. */
  fields() {
    if (!this.rows.length) return {};
    const { layout, roles } = this.way;
    const references = this.rows.map((row) => ({
      source: row.picker.reference,
      ...(roles.length > 1 ? { role: row.role.value } : {}),
      ...(layout === "guide" && row.at.value !== "" && Number(row.at.value) ? { at: Number(row.at.value) } : {}),
    }));
    const guidance = !this.guidanceField.hidden && this.guidance.value !== "" ? Number(this.guidance.value) : undefined;
    return { references, reference_layout: this.own ? undefined : layout, reference_guidance: guidance };
  }

  /** Shows the references of a request. */
  put(references, layout, guidance) {
    for (const row of this.rows) row.element.remove();
    this.rows = [];
    if (layout && this.ways.some((way) => way.layout === layout)) this.layout.value = layout;
    this.guidance.value = guidance ?? "";
    const waiting = (references ?? []).map(({ source, id, role, at }) => {
      const row = this.append();
      if (role) row.role.value = role;
      row.at.value = at ?? "";
      return row.picker.restore(source ?? (id ? { id } : undefined));
    });
    this.changed(true);
    return Promise.all(waiting);
  }
}
