// The slider: what other limits would have done is shown while it moves; the address follows it.
"use strict";
const PAUSE_MS = 150;
function factorOf(slider) { return Number(Math.pow(10, Number(slider.value)).toPrecision(3)); }
document.addEventListener("DOMContentLoaded", () => {
  const slider = document.getElementById("slider");
  const number = document.getElementById("factor");
  const part = document.getElementById("consequences");
  const saved = document.getElementById("save");
  if (!slider || !number || !part || !saved) return;
  slider.closest("[hidden]").hidden = false;
  let waiting = 0;
  function show(factor) {
    const address = `?factor=${factor}`;
    for (const name of ["false_alarms", "recall"]) saved.elements[name]?.remove();
    saved.elements.factor.value = factor;
    slider.setAttribute("aria-valuetext", `${factor} times the present limits`);
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      history.replaceState(null, "", address);
      loadPart(part, location.pathname + address);
    }, PAUSE_MS);
  }
  slider.addEventListener("input", () => { number.value = factorOf(slider); show(number.value); });
  number.addEventListener("change", () => {
    if (!number.checkValidity() || !number.value) return;
    slider.value = Math.log10(Number(number.value));
    show(number.value);
  });
});
