// A plot is fetched as a document and drawn by BokehJS; without it the table says the same. Its
// points are gone through by keys: a slider leads from each to the next, and Enter opens its frame.
"use strict";
async function drawPlot(place) {
  const words = place.dataset.waiting || "";
  place.classList.add("waiting");
  try {
    const answer = await fetch(place.dataset.plot);
    if (!answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      place.textContent = page.querySelector("main p")?.textContent || `The server answers ${answer.status}.`;
      return;
    }
    const plot = await answer.json();
    place.replaceChildren();
    const views = await Bokeh.embed.embed_item(plot, place.id);
    walkThrough([...views][0].model, place);
    place.dataset.drawn = "yes";
  } catch {
    place.textContent = `The plot could not be drawn. ${words}`;
  } finally {
    place.classList.remove("waiting");
  }
}

function pointsOf(groups) {
  const found = groups.flatMap(({ name: group, data_source: { data } }) => Array.from(data.name, (name, n) => (
    { group, name, x: data.x[n], y: data.y[n], address: data.address[n], told: data.told[n] })));
  return found.sort((one, other) => one.x - other.x || one.y - other.y);
}

function walkThrough(model, place) {
  const walk = document.querySelector(`[data-walk=${place.id}]`);
  const groups = model.renderers.filter((one) => one.data_source?.data.name);
  if (!walk || !groups.length) return;
  const [chosen, slider, link, told] = ["select", "input", "a", "span"].map((one) => walk.querySelector(one));
  const ring = model.renderers.find((one) => one.name === "chosen");
  let points = [];
  function stand(number) {
    const one = points[number - 1];
    slider.value = number;
    link.href = one.address;
    link.textContent = one.name;
    const words = `${one.told}, ${one.group}; ${number} of ${points.length}`;
    told.textContent = ` ${words}`;
    slider.setAttribute("aria-valuetext", `${one.name}, ${words}`);
  }
  function mark() {
    const one = points[slider.value - 1];
    ring.data_source.data = { x: [one.x], y: [one.y] };
    bringIn(model.x_range, one.x);
    bringIn(model.y_range, one.y);
  }
  function choose() {
    const some = groups.filter((one) => !chosen.value || one.name === chosen.value);
    for (const one of groups) one.visible = some.includes(one);  // as a click on the legend does
    points = pointsOf(some);
    slider.max = points.length;
    stand(points.length);
  }
  const all = groups.reduce((sum, one) => sum + one.data_source.data.name.length, 0);
  chosen.replaceChildren(new Option(`all, ${all}`, ""), ...groups.map((one) => new Option(`${one.name}, ${one.data_source.data.name.length}`, one.name)));
  chosen.addEventListener("change", () => { choose(); mark(); });
  slider.addEventListener("input", () => { stand(slider.valueAsNumber); mark(); });
  slider.addEventListener("focus", mark);
  slider.addEventListener("keydown", (event) => { if (event.key === "Enter") location.assign(link.href); });
  choose();
  walk.hidden = false;
}

// Move what is seen of an axis, as it is after a zoom, to where a point is.
function bringIn(range, value) {
  const { start, end } = range;
  if ((value - start) * (value - end) <= 0) return;
  range.setv({ start: value - (end - start) / 2, end: value + (end - start) / 2 });
}

document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll("[data-plot]")) drawPlot(place);
});
