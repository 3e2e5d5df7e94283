// Keys: asked for when the server wants one, and given up again.
import { call, post } from "./api.js";
import { button, h, labelled, panel } from "./dom.js";
import { T } from "./strings.js";

const L = T.login;
let asking = false;

/** Asks for a key whenever the server wants one. */
export function askForKeys() {
  document.addEventListener("needs-key", () => {
    if (!asking) ask();
  });
}

function ask() {
  asking = true;
  const key = h("input", { type: "password", autocomplete: "current-password", required: true });
  const fault = h("p", { class: "bad", role: "alert" });
  const form = h("form", {}, h("p", {}, L.hint), labelled(L.key, key), fault, h("div", { class: "row end" }, h("button", { class: "main" }, L.go)));
  const box = panel(L.title, {}, form);
  key.focus();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    fault.textContent = "";
    try {
      await post("/login", { key: key.value.trim() });
      location.reload();
    } catch (error) {
      fault.textContent = error.status === 401 ? L.wrong : error.message;
      key.select();
    }
  });
  box.addEventListener("close", () => {
    asking = false;
    const status = document.getElementById("status");
    status.replaceChildren(h("span", {}, T.errors.key), button(L.title, () => ask()));
  });
}

/** Ends the session in this browser. */
export async function logOut() {
  await call("POST", "/logout").catch(() => {});
  location.reload();
}
