// How old the page is, said in words, and in red when it is too old to be acted on.
"use strict";
const STALE_MS = 2 * 3600 * 1000;
function tellAge() {
  const shown = document.querySelector("nav .age");
  const made = Date.parse(document.body.dataset.generatedAt);
  if (!shown || Number.isNaN(made)) return;
  const minutes = Math.max(0, Math.floor((Date.now() - made) / 60000));
  shown.classList.toggle("stale", Date.now() - made > STALE_MS);
  shown.title = minutes < 1 ? "just now" : minutes < 120 ? `${minutes} min old` : `${Math.floor(minutes / 60)} h old`;
}
document.addEventListener("DOMContentLoaded", () => { tellAge(); setInterval(tellAge, 30000); });
