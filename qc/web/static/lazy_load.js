// Loads slow sections after the page; each section shows a link until then.
"use strict";
const pendingLoads = new WeakMap();
async function loadSection(section, address) {
  pendingLoads.get(section)?.abort();
  const controller = new AbortController();
  pendingLoads.set(section, controller);
  section.classList.add("waiting");
  try {
    const response = await fetch(address, { signal: controller.signal, headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const source = page.getElementById(section.id) || page.getElementById("main") || page.body;
    section.replaceChildren(...source.childNodes);
    section.classList.remove("waiting");
    section.dispatchEvent(new Event("loaded"));
  } catch (error) {
    if (error.name === "AbortError") return;
    section.classList.remove("waiting");
    section.textContent = "The server does not respond. Reload the page to try again.";
  }
}
document.addEventListener("DOMContentLoaded", () => {
  for (const section of document.querySelectorAll("[data-src]")) loadSection(section, section.dataset.src);
});
