// How old the page is, said in words, and in red when it is too old to be acted on.
"use strict";
function tellAge() {
  const shown = document.querySelector("nav .age");
  const made = Date.parse(document.body.dataset.generatedAt);
  if (!shown || Number.isNaN(made)) return;
  const seconds = Math.max(0, (Date.now() - made) / 1000);
  const isStale = seconds > Number(document.body.dataset.staleS);
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  const words = minutes < 1 ? "just now" : hours < 2 ? `${minutes} min old` : hours < 48 ? `${hours} h old` : `${Math.floor(hours / 24)} days old`;
  shown.querySelector(".words").textContent = words;
  shown.classList.toggle("stale", isStale);
  const alarm = document.getElementById("stale");  // read aloud once, when it is filled
  const told = isStale ? "This page is old: load it again." : "";
  if (alarm.textContent !== told) alarm.textContent = told;
}
document.addEventListener("DOMContentLoaded", () => { tellAge(); setInterval(tellAge, 10000); });

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
