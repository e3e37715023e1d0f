// What takes long is fetched after the page: the place says whence, and shows a link until then.
"use strict";
const asked = new WeakMap();
async function loadPart(place, address) {
  asked.get(place)?.abort();
  const mine = new AbortController();
  asked.set(place, mine);
  place.classList.add("waiting");
  try {
    const answer = await fetch(address, { signal: mine.signal, headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = page.getElementById(place.id) || page.getElementById("main") || page.body;
    place.replaceChildren(...part.childNodes);
    place.classList.remove("waiting");
    place.dispatchEvent(new Event("loaded"));
  } catch (error) {
    if (error.name === "AbortError") return;
    place.classList.remove("waiting");
    place.textContent = "The server does not answer; reload the page to try again.";
  }
}
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll("[data-src]")) loadPart(place, place.dataset.src);
});
