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

// What a script changes carries the mark of the page that it runs on, to our own address alone.
const ask = window.fetch.bind(window);
window.fetch = (what, how = {}) => {
  const request = new Request(what, how);
  const mark = document.querySelector('meta[name="csrf"]');
  const isOurs = new URL(request.url).origin === location.origin;
  if (mark && isOurs && !["GET", "HEAD"].includes(request.method) && !request.headers.has("X-CSRF-Token")) {
    request.headers.set("X-CSRF-Token", mark.content);
  }
  return ask(request);
};
