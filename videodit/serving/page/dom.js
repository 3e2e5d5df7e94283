// Elements made by hand: texts become text nodes, and never markup.
import { T } from "./strings.js";

/** An element. `props`: attributes, `on` with listeners, `class`; true and false set and leave out an attribute. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** Puts children in the place of what an element had. */
export function fillWith(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/** Puts a text into an element, which is hidden without one. */
export function tell(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

let counter = 0;

/** A label above a control. */
export function labelled(text, control, props = {}) {
  control.id ||= `c${++counter}`;
  return h("div", { class: "field", ...props }, h("label", { for: control.id }, text), control);
}

/** A button. */
export function button(text, onClick, props = {}) {
  return h("button", { type: "button", on: { click: onClick }, ...props }, text);
}

/** Shows a message for some seconds. */
export function say(text, kind = "error") {
  const box = document.getElementById("messages");
  const message = h("div", { class: `message ${kind}` }, text);
  box.append(message);
  setTimeout(() => message.remove(), 8000);
}

/** A dialog with a heading, which Esc, its cross and a click outside close. */
export function panel(title, props, ...children) {
  const cross = h("button", { type: "button", class: "quiet icon cross", "aria-label": T.close, title: T.close }, "×");
  const box = h("dialog", { "aria-label": title, ...props }, h("div", { class: "dialog-head" }, h("h2", {}, title), cross), children);
  cross.addEventListener("click", () => box.close());
  box.addEventListener("close", () => {
    box.remove();
    if (document.activeElement === document.body) document.getElementById("main").focus({ preventScroll: true });
  });
  box.addEventListener("pointerdown", (event) => {
    if (event.target === box && !inside(box, event)) box.close();
  });
  document.body.append(box);
  box.showModal();
  return box;
}

function inside(box, { clientX, clientY }) {
  const { left, right, top, bottom } = box.getBoundingClientRect();
  return clientX >= left && clientX <= right && clientY >= top && clientY <= bottom;
}

