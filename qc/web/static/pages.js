// Age of the page, in red when it is stale; CSRF token for all requests of scripts.
"use strict";
function showAge() {
  const age = document.querySelector("nav .age");
  const generatedAt = Date.parse(document.body.dataset.generatedAt);
  if (!age || Number.isNaN(generatedAt)) return;
  const seconds = Math.max(0, (Date.now() - generatedAt) / 1000);
  const isStale = seconds > Number(document.body.dataset.staleS);
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  const words = minutes < 1 ? "just now" : hours < 2 ? `${minutes} min old` : hours < 48 ? `${hours} h old` : `${Math.floor(hours / 24)} days old`;
  age.querySelector(".words").textContent = words;
  age.classList.toggle("stale", isStale);
  const warning = document.getElementById("stale");  // a screen reader reads each change
  const text = isStale ? "This page is old. Reload it." : "";
  if (warning.textContent !== text) warning.textContent = text;
}
document.addEventListener("DOMContentLoaded", () => { showAge(); setInterval(showAge, 10000); });

// Requests that change something carry the CSRF token, to this server only.
const originalFetch = window.fetch.bind(window);
window.fetch = (resource, options = {}) => {
  const request = new Request(resource, options);
  const token = document.querySelector('meta[name="csrf"]');
  const isSameOrigin = new URL(request.url).origin === location.origin;
  if (token && isSameOrigin && !["GET", "HEAD"].includes(request.method) && !request.headers.has("X-CSRF-Token")) {
    request.headers.set("X-CSRF-Token", token.content);
  }
  return originalFetch(request);
};
