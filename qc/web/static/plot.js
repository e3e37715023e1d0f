// A plot is fetched as a document and drawn by BokehJS; without it the table says the same.
"use strict";
async function drawPlot(place) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const words = place.dataset.waiting || "";
  place.classList.add("waiting");
  try {
    const answer = await fetch(`${place.dataset.plot}&dark=${dark}`);
    if (!answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      place.textContent = page.querySelector("main p")?.textContent || `The server answers ${answer.status}.`;
      return;
    }
    const plot = await answer.json();
    place.replaceChildren();
    await Bokeh.embed.embed_item(plot, place.id);
    place.dataset.dark = dark;  // paper turns it
    place.dataset.drawn = "yes";
  } catch {
    place.textContent = `The plot could not be drawn. ${words}`;
  } finally {
    place.classList.remove("waiting");
  }
}
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll("[data-plot]")) drawPlot(place);
});
