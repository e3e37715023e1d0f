// Reloads the dashboard every minute, unless the user is editing. If the server does not respond
// the page becomes stale, which pages.js shows.
"use strict";
const RELOAD_MS = 60000;
const isEditing = () => {
  const active = document.activeElement;
  return document.hidden || (active && active.closest("main form") !== null)
    || [...document.querySelectorAll("main input:not([type=hidden])")].some((input) => input.value !== input.defaultValue);
};
async function reload() {
  if (isEditing()) return;
  const response = await fetch(location.href).catch(() => null);
  if (!response || !response.ok || response.redirected || isEditing()) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const focused = document.activeElement && document.activeElement.getAttribute("href");
  document.querySelector("main").replaceChildren(...page.querySelector("main").childNodes);
  document.querySelector("nav .age").replaceChildren(...page.querySelector("nav .age").childNodes);
  document.body.dataset.generatedAt = page.body.dataset.generatedAt;
  if (focused) [...document.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === focused)?.focus();
  showAge();
}
setInterval(reload, RELOAD_MS);
