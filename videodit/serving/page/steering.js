// Control: clips, pictures, boxes and colours that steer a clip, and what the model will see of them.
import { call } from "./api.js";
import { Boxes } from "./boxes.js";
import { button, fillWith, h, labelled, tell } from "./dom.js";
import { icon } from "./icons.js";
import { MediaPicker } from "./media.js";
import { T, fill } from "./strings.js";

const S = T.steering;
const FITS = ["error", "hold", "loop"];

/** How controls of a kind are told: as they are, derived from a clip, or as data. */
function waysOf(kind) {
  return ["source", kind.derivable && "from_clip", kind.data === "boxes" && "boxes", kind.data === "palette" && "palette"].filter(Boolean);
}

export class Steering {
  /** `request` gives the fields of the whole request, with its task, or null while something is missing. */
  constructor(onChange, request) {
    this.onChange = onChange;
    this.request = request;
    this.kinds = [];
    this.rows = [];
    this.turn = 0; // of what is shown: an answer to an older question is passed over
    this.list = h("div", { class: "list" });
    this.add = button(S.add, () => { this.append().kind.focus(); this.changed(); });
    this.look = button(S.look, () => this.show(), { hidden: true });
    this.reason = h("small", { class: "reason", hidden: true });
    this.seen = h("div", { class: "seen", role: "status" });
    this.element = h("div", { class: "steering" }, this.list, h("div", { class: "actions" }, this.add, this.look), this.reason, this.seen);
  }

  /** The kinds that a model takes here; without any, why there are none. */
  allow(control, reason) {
    // Each branch that takes a kind is a choice of its own.
    this.kinds = (control?.kinds ?? []).flatMap((kind) => kind.branches.map((branch) => ({ ...kind, branch, alone: kind.branches.length === 1 })));
    this.add.disabled = !this.kinds.length;
    tell(this.reason, this.kinds.length ? "" : reason);
    if (!this.kinds.length && this.rows.length) this.clear();
  }

  setShape(width, height) {
    for (const row of this.rows) row.boxes.setShape(width, height);
    this.shape = [width, height];
  }

  append() {
    const row = { kept: {} }; // what this form cannot show of a request, until something takes its place
    row.kind = h("select", {}, this.kinds.map((kind, index) => h("option", { value: index }, kind.alone ? S.kinds[kind.name] ?? kind.name : fill(S.ofBranch, { kind: S.kinds[kind.name] ?? kind.name, branch: kind.branch }))));
    const free = this.kinds.findIndex((kind) => !this.rows.some((one) => this.of(one).branch === kind.branch));
    row.kind.value = Math.max(0, free);
    row.way = h("select");
    row.picker = new MediaPicker(S.ways.source, "any", () => this.changed());
    row.mask = new MediaPicker(S.mask, "any", () => this.changed());
    row.boxes = new Boxes(() => { this.forget(row, "data"); this.changed(); });
    row.note = h("small", { class: "reason", hidden: true });
    if (this.shape) row.boxes.setShape(...this.shape);
    row.palette = h("input", { type: "text", placeholder: S.palettePlaceholder, dir: "ltr" });
    const share = (value) => h("input", { type: "number", min: 0, max: 1, step: 0.05, value, inputmode: "decimal" });
    row.weight = h("input", { type: "number", min: 0, max: 10, step: 0.05, value: 1, inputmode: "decimal" });
    row.start = share(0);
    row.end = share(1);
    row.fit = h("select", {}, FITS.map((name) => h("option", { value: name }, S.fits[name])));
    const remove = h("button", { type: "button", class: "icon quiet", title: S.remove, "aria-label": S.remove, on: { click: () => this.drop(row) } }, icon("remove"));
    row.media = h("div", { class: "row top" }, row.picker.element, row.mask.element);
    row.paletteField = labelled(S.ways.palette, row.palette);
    row.element = h(
      "div", { class: "control" },
      h("div", { class: "row" }, labelled(S.kind, row.kind), labelled(S.way, row.way), remove),
      row.note, row.media, row.boxes.element, row.paletteField,
      h("div", { class: "row" }, labelled(S.weight, row.weight), labelled(S.start, row.start), labelled(S.end, row.end), (row.fitField = labelled(S.fit, row.fit))),
    );
    for (const choice of [row.kind, row.way]) {
      choice.addEventListener("input", () => {
        this.forget(row, "data", "options");
        this.showRow(row, choice === row.way ? row.way.value : null);
      });
    }
    row.palette.addEventListener("input", () => this.forget(row, "data"));
    row.element.addEventListener("input", () => this.changed());
    this.rows.push(row);
    this.list.append(row.element);
    this.showRow(row);
    return row;
  }

  of(row) {
    return this.kinds[Number(row.kind.value)] ?? this.kinds[0];
  }

  /** Shows the fields of a row's kind, told one way or, without it, as is usual for the kind. */
  showRow(row, told = null) {
    const ways = waysOf(this.of(row));
    const usual = ["boxes", "palette", "source"].find((way) => ways.includes(way));
    fillWith(row.way, ways.map((way) => h("option", { value: way }, S.ways[way])));
    row.way.value = told ?? usual;
    const way = row.way.value;
    row.picker.label.textContent = S.ways[way];
    row.picker.element.hidden = way === "boxes" || way === "palette";
    row.boxes.element.hidden = way !== "boxes";
    row.paletteField.hidden = way !== "palette";
    row.fitField.hidden = row.picker.element.hidden;
  }

  forget(row, ...names) {
    for (const name of names) delete row.kept[name];
    tell(row.note, row.kept.data ? S.keptData : "");
  }

  drop(row) {
    this.rows = this.rows.filter((one) => one !== row);
    row.picker.set(null, true);
    row.mask.set(null, true);
    row.element.remove();
    this.add.focus();
    this.changed();
  }

  clear() {
    for (const row of this.rows) row.element.remove();
    this.rows = [];
    this.changed();
  }

  changed() {
    this.look.hidden = !this.rows.length;
    fillWith(this.seen);
    this.turn += 1;
    this.onChange();
  }

  get pickers() {
    return this.rows.flatMap((row) => [row.picker, row.mask]);
  }

  /** What is missing, or in the way of another, in words. */
  missing() {
    for (const row of this.rows) {
      if (!row.picker.element.hidden && !row.picker.source && !row.kept.data) return { text: S.needsMedia, at: row.picker.zone };
      if (!row.paletteField.hidden && !row.palette.value.trim() && !row.kept.data) return { text: S.needsColours, at: row.palette };
      const other = this.rows.find((one) => one !== row && this.of(one).branch === this.of(row).branch);
      if (other) return { text: S.sameBranch, at: row.kind };
    }
    return null;
  }

  /** The field `control` of a request. */
  fields() {
    if (!this.rows.length) return undefined;
    return Object.fromEntries(this.rows.map((row) => {
      const { name, branch, alone } = this.of(row);
      const way = row.way.value;
      const said = alone ? {} : { kind: name };
      if (row.kept.data && !row.picker.source) said.data = row.kept.data;
      else if (way === "boxes") said.data = row.boxes.data();
      else if (way === "palette") said.data = row.palette.value.split(/[\s,]+/).filter(Boolean);
      else {
        said[way] = row.picker.reference;
        if (row.fit.value !== "error") said.fit = row.fit.value;
        if (way === "from_clip" && row.kept.options) said.options = row.kept.options;
      }
      if (row.mask.reference) said.mask = row.mask.reference;
      for (const [key, own] of [["weight", 1], ["start", 0], ["end", 1]]) {
        if (key === "weight" && row.weight.value === "" && row.kept.weight) said.weight = row.kept.weight;
        else if (row[key].value !== "" && Number(row[key].value) !== own) said[key] = Number(row[key].value);
      }
      return [alone ? name : branch, said];
    }));
  }

  /** Shows the controls of a request, as far as the model takes them. */
  put(control) {
    for (const row of this.rows) row.element.remove();
    this.rows = [];
    const waiting = Object.entries(control ?? {}).map(([slot, value]) => {
      const said = Array.isArray(value) ? { data: value } : value;
      const index = this.kinds.findIndex((kind) => kind.name === (said.kind ?? slot) && (kind.branch === slot || kind.name === slot));
      return index < 0 ? null : this.putOne(this.append(), index, said);
    });
    this.changed();
    return Promise.all(waiting);
  }

  putOne(row, index, said) {
    const { source, from_clip: derived, id, data, options } = said;
    row.kind.value = index;
    const kind = this.of(row);
    const way = derived ? "from_clip" : data ? kind.data : "source";
    this.showRow(row, waysOf(kind).includes(way) ? way : "source");
    row.weight.value = Array.isArray(said.weight) ? "" : said.weight ?? 1;
    row.start.value = said.start ?? 0;
    row.end.value = said.end ?? 1;
    row.fit.value = said.fit ?? "error";
    const shown = !data || (kind.data === "boxes" && row.boxes.put(data)) || (kind.data === "palette" && data.every((one) => typeof one === "string"));
    if (data && kind.data === "palette" && shown) row.palette.value = data.join(", ");
    row.kept = { ...(shown ? {} : { data }), ...(options ? { options } : {}), ...(Array.isArray(said.weight) ? { weight: said.weight } : {}) };
    if (row.kept.weight) row.weight.placeholder = row.kept.weight.join(", ");
    this.forget(row);
    const reference = source ?? derived ?? (id ? { id } : undefined);
    return Promise.all([row.picker.restore(reference), row.mask.restore(said.mask)]);
  }

  async show() {
    await Promise.all(this.pickers.map((picker) => picker.sending));
    const body = this.request();
    if (!body) return;
    const turn = ++this.turn;
    this.look.disabled = true;
    fillWith(this.seen, h("p", {}, S.looking));
    try {
      const { controls, notices } = await call("POST", "/v1/videos/controls", body);
      if (turn !== this.turn) return;
      const pictures = controls.map(({ kind, picture }) => h("figure", {}, h("img", { src: picture, alt: fill(S.seenAs, { kind: S.kinds[kind] ?? kind }) }), h("figcaption", {}, S.kinds[kind] ?? kind)));
      fillWith(this.seen, pictures, notices.map((notice) => h("p", { class: "notice" }, notice)));
    } catch (error) {
      if (turn === this.turn) fillWith(this.seen, h("p", { class: "bad" }, error.message));
    } finally {
      this.look.disabled = false;
    }
  }
}
