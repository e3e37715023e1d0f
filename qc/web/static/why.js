// The cost takes a while to count: it comes when the page is already there.
"use strict";
document.addEventListener("DOMContentLoaded", async () => {
  const place = document.querySelector("[data-load]");
  if (!place) return;
  const note = document.createElement("p");
  note.setAttribute("role", "status");
  note.textContent = "Counting …";
  place.append(note);
  try {
    const answer = await fetch(place.dataset.load);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.getElementById("cost");
    if (!answer.ok || !found) throw new Error(page.querySelector("main")?.textContent.trim() ?? answer.status);
    place.replaceWith(document.importNode(found, true));
  } catch (error) {
    note.textContent = `It could not be counted: ${error.message}`;
  }
});
