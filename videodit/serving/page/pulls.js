// Pointers that pull or draw, and keys that do the same.

/** The ways of the arrow keys, across and down. */
export const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * Follows a pointer that went down on an element until it is let go. Places are shares of `area`, below 0 or above 1
 * outside of it: `onMove` gets each, and where the pointer went down is returned.
 */
export function follow(event, element, area, onMove, onEnd = () => {}) {
  event.preventDefault();
  element.setPointerCapture(event.pointerId);
  const place = (one) => {
    const box = area.getBoundingClientRect();
    return { x: (one.clientX - box.left) / box.width, y: (one.clientY - box.top) / box.height };
  };
  const moved = (move) => onMove(place(move));
  element.addEventListener("pointermove", moved);
  element.addEventListener("lostpointercapture", () => { element.removeEventListener("pointermove", moved); onEnd(); }, { once: true });
  return place(event);
}
