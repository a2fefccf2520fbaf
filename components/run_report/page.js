"use strict";
// Without this, a strip is a row of slices to scroll through sideways; with it, a stack with one slice on top.
for (const viewer of document.querySelectorAll(".viewer")) {
  const slices = [...viewer.querySelectorAll(".slices > li")];
  const stage = viewer.querySelector(".stage");
  const slider = viewer.querySelector("input");
  const last = slices.length - 1;
  let place = Number(viewer.dataset.start);

  const show = (wanted) => {
    place = Math.min(Math.max(wanted, 0), last);
    slices.forEach((slice, index) => slice.classList.toggle("shown", index === place));
    slider.value = place;
    slider.setAttribute("aria-valuetext", slices[place].dataset.name);
    viewer.querySelector("output").textContent = slices[place].dataset.name;
  };

  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5, Home: -last, End: last };
  stage.addEventListener("keydown", (event) => {
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    show(place + steps[event.key]);
  });
  slider.addEventListener("input", () => show(Number(slider.value)));

  // The wheel turns the stack that was clicked or tabbed to, and goes on with the page at its ends.
  let turned = 0;
  stage.addEventListener("wheel", (event) => {
    const step = Math.sign(event.deltaY);
    if (!step || event.ctrlKey || !viewer.contains(document.activeElement)) return;
    if (place + step < 0 || place + step > last) return;
    event.preventDefault();
    turned += event.deltaMode === 0 ? event.deltaY : 40 * event.deltaY;
    if (Math.abs(turned) < 20) return;
    turned = 0;
    show(place + step);
  }, { passive: false });

  // A finger, or the mouse with its button down, drags the stack sideways; up and down it scrolls the page.
  let from = null;
  stage.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, place };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!from) return;
    const reach = Math.max(stage.clientWidth / slices.length, 6);
    show(from.place + Math.round((event.clientX - from.x) / reach));
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { from = null; });

  viewer.classList.add("stacked");
  viewer.querySelector(".controls").hidden = false;
  show(place);
}
