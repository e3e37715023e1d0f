// Slider: shows the effect of other thresholds while it moves, and updates the address.
"use strict";
const DELAY_MS = 150;
function factorOf(slider) { return Number(Math.pow(10, Number(slider.value)).toPrecision(3)); }
document.addEventListener("DOMContentLoaded", () => {
  const slider = document.getElementById("slider");
  const number = document.getElementById("factor");
  const effects = document.getElementById("effects");
  const form = document.getElementById("save");
  if (!slider || !number || !effects || !form) return;
  slider.closest("[hidden]").hidden = false;
  let timer = 0;
  function show(factor) {
    const query = `?factor=${factor}`;
    for (const name of ["false_alarms", "recall"]) form.elements[name]?.remove();
    form.elements.factor.value = factor;
    slider.setAttribute("aria-valuetext", `${factor} times the present thresholds`);
    clearTimeout(timer);
    timer = setTimeout(() => {
      history.replaceState(null, "", query);
      loadSection(effects, location.pathname + query);
    }, DELAY_MS);
  }
  slider.addEventListener("input", () => { number.value = factorOf(slider); show(number.value); });
  number.addEventListener("change", () => {
    if (!number.checkValidity() || !number.value) return;
    slider.value = Math.log10(Number(number.value));
    show(number.value);
  });
});
