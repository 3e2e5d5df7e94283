// Small drawings on buttons, which need no font.
const NAMESPACE = "http://www.w3.org/2000/svg";
const PATHS = {
  dice: "M4 3h12a1 1 0 0 1 1 1v12a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM7 7h.01M13 7h.01M10 10h.01M7 13h.01M13 13h.01",
  last: "M4 10a6 6 0 1 0 2-4.5M4 3v4h4",
  locked: "M5 9h10v8H5zM7 9V6a3 3 0 0 1 6 0v3",
  open: "M5 9h10v8H5zM7 9V6a3 3 0 0 1 6-.5",
  remove: "M5 5l10 10M15 5L5 15",
};

/** A drawing that says nothing to screen readers; its button has the label. */
export function icon(name) {
  const drawing = document.createElementNS(NAMESPACE, "svg");
  const attributes = { viewBox: "0 0 20 20", width: 18, height: 18, fill: "none", stroke: "currentColor", "stroke-width": 1.8, "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true" };
  for (const [key, value] of Object.entries(attributes)) drawing.setAttribute(key, value);
  const path = document.createElementNS(NAMESPACE, "path");
  path.setAttribute("d", PATHS[name]);
  drawing.append(path);
  return drawing;
}
