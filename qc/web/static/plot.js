// Loads a plot and draws it with BokehJS. A slider selects points by keyboard; Enter opens the
// frame of the selected point.
"use strict";
async function drawPlot(place) {
  const alternative = place.dataset.waiting || "";
  place.classList.add("waiting");
  try {
    const response = await fetch(place.dataset.plot);
    if (!response.ok) {
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      place.textContent = page.querySelector("main p")?.textContent || `Server error ${response.status}.`;
      return;
    }
    const plot = await response.json();
    place.replaceChildren();
    const views = await Bokeh.embed.embed_item(plot, place.id);
    addNavigator([...views][0].model, place);
    place.dataset.drawn = "yes";
  } catch {
    place.textContent = `The plot could not be drawn. ${alternative}`;
  } finally {
    place.classList.remove("waiting");
  }
}

function pointsOf(groups) {
  const points = groups.flatMap(({ name: group, data_source: { data } }) => Array.from(data.name, (name, n) => (
    { group, name, x: data.x[n], y: data.y[n], address: data.address[n], note: data.note[n] })));
  return points.sort((a, b) => a.x - b.x || a.y - b.y);
}

function addNavigator(model, place) {
  const navigator = document.querySelector(`[data-navigator=${place.id}]`);
  const groups = model.renderers.filter((renderer) => renderer.data_source?.data.name);
  if (!navigator || !groups.length) return;
  const [select, slider, link, description] = ["select", "input", "a", "span"].map((name) => navigator.querySelector(name));
  const ring = model.renderers.find((renderer) => renderer.name === "selected");
  let points = [];
  function describe(number) {
    const point = points[number - 1];
    slider.value = number;
    link.href = point.address;
    link.textContent = point.name;
    const words = `${point.note}, ${point.group}; ${number} of ${points.length}`;
    description.textContent = ` ${words}`;
    slider.setAttribute("aria-valuetext", `${point.name}, ${words}`);
  }
  function mark() {
    const point = points[slider.value - 1];
    ring.data_source.data = { x: [point.x], y: [point.y] };
    centreOn(model.x_range, point.x);
    centreOn(model.y_range, point.y);
  }
  function selectGroup() {
    const selected = groups.filter((group) => !select.value || group.name === select.value);
    for (const group of groups) group.visible = selected.includes(group);  // as a click on the legend
    points = pointsOf(selected);
    slider.max = points.length;
    describe(points.length);
  }
  const total = groups.reduce((sum, group) => sum + group.data_source.data.name.length, 0);
  select.replaceChildren(new Option(`all, ${total}`, ""), ...groups.map((group) => new Option(`${group.name}, ${group.data_source.data.name.length}`, group.name)));
  select.addEventListener("change", () => { selectGroup(); mark(); });
  slider.addEventListener("input", () => { describe(slider.valueAsNumber); mark(); });
  slider.addEventListener("focus", mark);
  slider.addEventListener("keydown", (event) => { if (event.key === "Enter") location.assign(link.href); });
  selectGroup();
  navigator.hidden = false;
}

// Move the visible range of an axis so that it contains a value.
function centreOn(range, value) {
  const { start, end } = range;
  if ((value - start) * (value - end) <= 0) return;
  range.setv({ start: value - (end - start) / 2, end: value + (end - start) / 2 });
}

document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll("[data-plot]")) drawPlot(place);
});
