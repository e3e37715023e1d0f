// Reads the page again every minute, unless somebody is at work in it. One that cannot be read
// again, as the server or the network is away, grows old, and pages.js says so.
"use strict";
const AGAIN_MS = 60000;
const isAtWork = () => {
  const active = document.activeElement;
  return document.hidden || (active && active.closest("main form") !== null)
    || [...document.querySelectorAll("main input:not([type=hidden])")].some((one) => one.value !== one.defaultValue);
};
async function readAgain() {
  if (isAtWork()) return;
  const answer = await fetch(location.href).catch(() => null);
  if (!answer || !answer.ok || answer.redirected || isAtWork()) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focused = document.activeElement && document.activeElement.getAttribute("href");
  document.querySelector("main").replaceChildren(...page.querySelector("main").childNodes);
  document.querySelector("nav .age").replaceChildren(...page.querySelector("nav .age").childNodes);
  document.body.dataset.generatedAt = page.body.dataset.generatedAt;
  if (focused) [...document.querySelectorAll("a[href]")].find((one) => one.getAttribute("href") === focused)?.focus();
  tellAge();
}
setInterval(readAgain, AGAIN_MS);
