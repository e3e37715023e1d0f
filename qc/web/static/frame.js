// Image viewer: an image and its comparison images, zoomed and panned together.
// Coordinates are detector pixels, from 0 as read, y upwards.
"use strict";
const CHUNK = 64, MOST_TILES = 800, DEEPEST_ZOOM = 40;

class Pane {
  // One canvas. `facts` describe its image; a difference image has tiles on the grid of its image.
  constructor(figure, viewer) {
    this.figure = figure;
    this.kind = figure.dataset.kind;
    this.viewer = viewer;
    this.tiles = new Map();
    this.chunks = new Map();
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", `${figure.querySelector("figcaption").textContent.trim()}: arrow keys pan, plus and minus zoom, Enter sets the cursor`);
    figure.querySelector(".screen").append(this.canvas);
    listen(this);
  }
  async open(name, extension, difference = false) {
    this.name = name;
    this.extension = extension;
    this.base = `/frames/${encodeURIComponent(name)}`;
    const response = await fetch(`/api/v1${this.base}/image?extension=${extension}${difference ? "&difference=true" : ""}`);
    const facts = await response.json();
    if (!response.ok) throw new Error(facts.error ?? response.statusText);
    this.facts = facts;
    return facts;
  }
  follow(own) { // a difference has the coordinates of its image
    Object.assign(this, { name: own.name, extension: own.extension, base: own.base, facts: own.facts });
  }
  address(level, row, column) {
    const position = `${level}/${row}/${column}.png?extension=${this.extension}&v=${this.facts.pixels_sha256.slice(0, 12)}`;
    if (this.kind === "difference") return `${this.base}/difference/${position}&reach=${this.facts.reach}`;
    const { stretch, low, high, show } = this.viewer.display;
    return `${this.base}/tiles/${position}&stretch=${stretch}&low=${low}&high=${high}&show=${show}`;
  }
  tile(level, row, column) {
    const address = this.address(level, row, column);
    let image = this.tiles.get(address);
    if (!image) {
      if (this.tiles.size >= MOST_TILES) this.tiles.delete(this.tiles.keys().next().value);
      image = new Image();
      image.onload = () => this.viewer.draw();
      image.onerror = () => { image.failed = true; this.viewer.draw(); };
      image.src = address;
      this.tiles.set(address, image);
    }
    return image;
  }
  resize() {
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(this.canvas.clientWidth * ratio), Math.round(this.canvas.clientHeight * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    return ratio;
  }
  transform(ratio) { // from image pixels to canvas pixels
    const { view } = this.viewer, f = this.facts;
    const kx = f.nx / f.width, ky = f.ny / f.height;
    const x = (px) => this.canvas.width / 2 + (px * kx - view.cx) * view.scale * ratio;
    const y = (py) => this.canvas.height / 2 - (py * ky - view.cy) * view.scale * f.pixel_aspect * ratio;
    return { x, y, kx, ky };
  }
  draw() { // returns true if all tiles are loaded
    const ratio = this.resize(), pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.facts || (this.kind === "difference" && !this.facts.reach)) return !this.isLoading;
    const f = this.facts, { x, y, kx, ky } = this.transform(ratio), { view } = this.viewer;
    const wanted = Math.min(f.levels - 1, Math.max(0, Math.floor(Math.log2(1 / (view.scale * kx * ratio)))));
    const [left, right] = [view.cx - this.canvas.width / ratio / view.scale / 2, view.cx + this.canvas.width / ratio / view.scale / 2];
    const tall = this.canvas.height / ratio / view.scale / f.pixel_aspect / 2;
    let complete = true;
    for (let level = f.levels - 1; level >= wanted; level--) {
      if (level !== wanted && level !== f.levels - 1) continue;
      const side = f.tile * 2 ** level;
      const [c0, c1] = span(left / kx, right / kx, side, f.width), [r0, r1] = span((view.cy - tall) / ky, (view.cy + tall) / ky, side, f.height);
      pen.imageSmoothingEnabled = view.scale * kx * 2 ** level * ratio < 1;
      for (let row = r0; row <= r1; row++) for (let column = c0; column <= c1; column++) {
        const image = this.tile(level, row, column);
        if (!image.complete || !image.naturalWidth) { complete = complete && Boolean(image.failed); continue; }
        const x0 = Math.round(x(column * side)), x1 = Math.round(x(column * side + image.naturalWidth * 2 ** level));
        const y0 = Math.round(y(row * side)), y1 = Math.round(y(row * side + image.naturalHeight * 2 ** level));
        pen.drawImage(image, x0, y1, x1 - x0, y0 - y1);
      }
    }
    if (this.kind === "own") this.drawResiduals(pen, x, y);
    this.drawCursor(pen, x, y, kx, ky);
    return complete;
  }
  drawResiduals(pen, x, y) {
    const { residuals } = this.viewer;
    if (!residuals?.naturalWidth || !this.viewer.view.where) return;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(residuals, x(0), y(this.facts.height), x(this.facts.width) - x(0), y(0) - y(this.facts.height));
  }
  drawCursor(pen, x, y, kx, ky) {
    const { view } = this.viewer;
    if (view.x === null) return;
    const [px, py] = [x((view.x + 0.5) / kx), y((view.y + 0.5) / ky)];
    pen.strokeStyle = "#56b4e9";
    pen.lineWidth = window.devicePixelRatio || 1;
    pen.beginPath();
    for (const [a, b] of [[0, px - 6], [px + 6, this.canvas.width]]) { pen.moveTo(a, py); pen.lineTo(b, py); }
    for (const [a, b] of [[0, py - 6], [py + 6, this.canvas.height]]) { pen.moveTo(px, a); pen.lineTo(px, b); }
    pen.stroke();
  }
  detector(clientX, clientY) { // detector coordinates of a screen position
    const box = this.canvas.getBoundingClientRect(), { view } = this.viewer;
    const x = view.cx + (clientX - box.left - box.width / 2) / view.scale;
    const y = view.cy - (clientY - box.top - box.height / 2) / (view.scale * this.viewer.aspect);
    return { x, y };
  }
  async value(x, y) { // ADU of a pixel; undefined outside the image
    const f = this.facts;
    if (!f || x < 0 || y < 0 || x >= f.nx || y >= f.ny) return undefined;
    const [px, py] = [Math.floor(x * f.width / f.nx), Math.floor(y * f.height / f.ny)];
    const [bx, by] = [Math.floor(px / CHUNK), Math.floor(py / CHUNK)], key = `${bx},${by}`;
    if (!this.chunks.has(key)) {
      if (this.chunks.size >= 500) this.chunks.clear();
      this.chunks.set(key, this.read(bx, by));
    }
    const chunk = await this.chunks.get(key);
    return chunk?.values[(py - by * CHUNK) * chunk.width + px - bx * CHUNK];
  }
  async read(bx, by) {
    const response = await fetch(`${this.base}/values.bin?extension=${this.extension}&x=${bx * CHUNK}&y=${by * CHUNK}&width=${CHUNK}&height=${CHUNK}`);
    if (!response.ok) return undefined;
    const bytes = new DataView(await response.arrayBuffer());
    const values = Float32Array.from({ length: bytes.byteLength / 4 }, (_, n) => bytes.getFloat32(4 * n, true));
    return { values, width: Number(response.headers.get("X-Width")) };
  }
}

class Viewer {
  constructor(root) {
    this.root = root;
    this.form = root.querySelector(".display");
    this.status = root.querySelector("[data-status]");
    this.readout = root.querySelector(".readout output");
    const query = new URLSearchParams(location.search), number = (key) => (query.has(key) ? Number(query.get(key)) : null);
    this.view = { cx: number("cx"), cy: number("cy"), scale: number("scale"), x: number("x"), y: number("y"), where: query.get("where") === "1" };
    if (!Number.isInteger(this.view.x) || !Number.isInteger(this.view.y)) this.view.x = this.view.y = null;
    root.classList.add("scripted");
    for (const element of root.querySelectorAll(".with-script")) element.hidden = false;
    this.panes = [...root.querySelectorAll(".pane")].map((figure) => new Pane(figure, this));
    this.form.where.checked = this.view.where;
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.applyDisplay(); });
    this.form.addEventListener("change", () => this.applyDisplay());
    for (const button of this.form.querySelectorAll("[data-do]")) button.addEventListener("click", () => this.act(button.dataset.do));
    new ResizeObserver(() => this.draw()).observe(root);
  }
  pane(kind) { return this.panes.find((pane) => pane.kind === kind); }
  async open() {
    const own = this.pane("own"), d = this.root.dataset;
    this.showStatus("Reading the file …");
    const facts = await own.open(d.name, d.extension, true);
    this.aspect = facts.pixel_aspect;
    this.readDisplay();
    if (!(this.view.scale > 0)) this.fit();
    this.showStatus(facts.trouble && `Stored block means instead of pixels: ${facts.trouble}.`);
    this.draw();
    this.loadResiduals();
    this.pin(this.view.x, this.view.y);
    const difference = this.pane("difference");
    if (difference) {
      difference.follow(own);
      difference.figure.querySelector(".scale").textContent = facts.reach ? ` −${round(facts.reach)} to +${round(facts.reach)} ADU` : " not available";
    }
    await Promise.all([this.openNominal(), this.openBad()]);
    this.draw();
    this.pin(this.view.x, this.view.y);
  }
  async openNominal() {
    const pane = this.pane("nominal"), d = this.root.dataset;
    if (pane) await pane.open(d.nearest, d.nearestExtension).then(() => this.draw(), (error) => hide(pane, error.message));
  }
  async openBad() {
    const pane = this.pane("bad"), own = this.pane("own");
    pane.isLoading = true;
    try {
      const response = await fetch(`/api/v1${own.base}/nearest-bad?extension=${own.extension}`);
      const { bad } = await response.json();
      if (!bad) return hide(pane, "No image of this type is labelled bad.");
      const link = document.createElement("a");
      link.href = `/frames/${encodeURIComponent(bad.link.name)}?extension=${bad.link.number}`;
      link.textContent = bad.link.name;
      pane.figure.querySelector("figcaption").replaceChildren("Nearest image labelled bad: ", link, ` (${bad.kind.replaceAll("_", " ")})`);
      await pane.open(bad.link.name, bad.link.number);
    } catch (error) {
      hide(pane, error.message);
    } finally {
      pane.isLoading = false;
    }
  }
  showStatus(message) { this.status.textContent = message || ""; }
  readDisplay() {
    const { facts } = this.pane("own"), value = (name, fallback) => (this.form[name].value === "" ? fallback : Number(this.form[name].value));
    const display = { stretch: this.form.stretch.value, show: this.form.show.value, low: value("low", facts.low), high: value("high", facts.high) };
    if (display.low < display.high) this.display = display;
    else { this.display = { ...display, low: facts.low, high: facts.high }; this.showStatus("Black must be below white; default limits are used."); }
    this.form.low.placeholder = round(facts.low);
    this.form.high.placeholder = round(facts.high);
  }
  applyDisplay() {
    if (!this.pane("own").facts) return;
    this.showStatus("");
    this.readDisplay();
    this.view.where = this.form.where.checked;
    this.loadResiduals();
    this.draw();
  }
  fit() {
    const { facts, canvas } = this.pane("own");
    const scale = Math.min(canvas.clientWidth / facts.nx, canvas.clientHeight / (facts.ny * this.aspect));
    Object.assign(this.view, { cx: facts.nx / 2, cy: facts.ny / 2, scale: scale * 0.98 });
  }
  zoom(factor, x = this.view.cx, y = this.view.cy) { // x, y keeps its place on the screen
    const { facts, canvas } = this.pane("own");
    const lowest = Math.min(canvas.clientWidth / facts.nx, canvas.clientHeight / facts.ny) / 4;
    const scale = Math.min(DEEPEST_ZOOM, Math.max(lowest, this.view.scale * factor)), by = this.view.scale / scale;
    this.move(x + (this.view.cx - x) * by, y + (this.view.cy - y) * by, scale);
  }
  move(cx, cy, scale = this.view.scale) {
    const { facts } = this.pane("own");
    Object.assign(this.view, { cx: clamp(cx, 0, facts.nx), cy: clamp(cy, 0, facts.ny), scale });
    this.draw();
  }
  pan(dx, dy) { this.move(this.view.cx + dx / this.view.scale, this.view.cy + dy / (this.view.scale * this.aspect)); }
  act(action) {
    if (!this.pane("own").facts) return;
    if (action === "fit") { this.fit(); this.draw(); }
    else this.zoom({ in: 2, out: 0.5, full: 1 / this.view.scale }[action]);
  }
  key(event) {
    const { view } = this, { canvas, facts } = this.pane("own");
    if (!facts || event.ctrlKey || event.metaKey || event.altKey) return false;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (arrows && event.shiftKey) this.pin((view.x ?? Math.floor(view.cx)) + arrows[0], (view.y ?? Math.floor(view.cy)) + arrows[1]);
    else if (arrows) this.pan(arrows[0] * canvas.clientWidth / 8, arrows[1] * canvas.clientHeight / 8);
    else if (event.key === "+" || event.key === "=") this.act("in");
    else if (event.key === "-") this.act("out");
    else if (event.key === "0") this.act("fit");
    else if (event.key === "1") this.act("full");
    else if (event.key === "Enter") this.pin(Math.floor(view.cx), Math.floor(view.cy));
    else if (event.key === "m") { this.form.where.checked = !this.form.where.checked; this.applyDisplay(); }
    else return false;
    return true;
  }
  pin(x, y) {
    const { facts } = this.pane("own");
    if (x === null || y === null || !facts) return;
    Object.assign(this.view, { x: clamp(x, 0, facts.nx - 1), y: clamp(y, 0, facts.ny - 1) });
    this.showValues(this.view.x, this.view.y);
    this.readCuts();
    this.draw();
  }
  async showValues(x, y) { // discards responses to older requests
    const request = this.valueRequest = (this.valueRequest ?? 0) + 1;
    const shown = this.panes.filter((pane) => pane.kind !== "difference" && pane.facts);
    const values = await Promise.all(shown.map((pane) => pane.value(x, y)));
    if (request !== this.valueRequest) return;
    const names = { own: "", nominal: "nearest nominal ", bad: "nearest bad " };
    const words = values.map((value, n) => (value === undefined ? "" : `${names[shown[n].kind]}${round(value)} ADU`)).filter(Boolean);
    this.readout.textContent = words.length ? `x ${x}, y ${y}: ${words.join(", ")}` : "\u00a0";
    Object.assign(this.readout.dataset, { x, y, value: values[0] ?? "" });
  }
  loadResiduals() {
    if (!this.view.where || this.residuals) return;
    const own = this.pane("own"), caption = this.root.querySelector("[data-residual]"), address = `${own.base}/residual-map`;
    this.residuals = new Image();
    this.residuals.onload = () => { this.root.dataset.residuals = "shown"; this.draw(); };
    this.residuals.onerror = () => { caption.textContent = "No residual map: block statistics or references are missing."; };
    this.residuals.src = `${address}.png?extension=${own.extension}`;
    fetch(`/api/v1${address}?extension=${own.extension}`).then((response) => response.json()).then(({ words }) => { if (words) caption.textContent = words; }, () => {});
  }
  async readCuts() {
    const { x, y } = this.view, { width, height, nx, ny } = this.pane("own").facts;
    const [px, py] = [Math.floor(x * width / nx), Math.floor(y * height / ny)];
    const shown = [this.pane("own"), this.pane("nominal")].filter((pane) => pane?.facts && pane.facts.width === width && pane.facts.height === height);
    const request = this.cutRequest = (this.cutRequest ?? 0) + 1;
    const cuts = await Promise.all(shown.map(async (pane) => {
      const response = await fetch(`/api/v1${pane.base}/cuts?extension=${pane.extension}&x=${px}&y=${py}`);
      return response.ok ? response.json() : null;
    }));
    if (request !== this.cutRequest || !cuts[0]) return;
    this.cuts = cuts.filter(Boolean);
    this.drawCuts();
  }
  drawCuts() {
    if (!this.cuts) return;
    const { view } = this, { canvas, facts } = this.pane("own");
    const reach = { row: canvas.clientWidth / view.scale / 2, column: canvas.clientHeight / (view.scale * this.aspect) / 2 };
    for (const [kind, centre, pinned, k] of [["row", view.cx, view.x, facts.nx / facts.width], ["column", view.cy, view.y, facts.ny / facts.height]]) {
      const place = this.root.querySelector(`[data-cut=${kind}]`);
      const range = drawCut(place, this.cuts.map((cut) => cut[kind]), (centre - reach[kind]) / k, (centre + reach[kind]) / k, (pinned + 0.5) / k);
      place.dataset.length = this.cuts[0][kind].length;
      place.parentElement.querySelector("span").textContent = `${kind === "row" ? `y ${view.y}` : `x ${view.x}`}, ${range}`;
    }
  }
  draw() {
    if (this.frameRequest || !this.display) return;
    this.frameRequest = requestAnimationFrame(() => {
      this.frameRequest = null;
      const { view } = this, complete = this.panes.map((pane) => pane.draw()).every(Boolean);
      this.drawCuts();
      Object.assign(this.root.dataset, { scale: view.scale, cx: view.cx, cy: view.cy, ready: complete ? "yes" : "no" });
      this.updateAddress();
    });
  }
  updateAddress() { // delayed, as browsers limit the rate of such changes
    clearTimeout(this.addressTimer);
    this.addressTimer = setTimeout(() => {
      const query = new URLSearchParams(location.search), { view, display, form } = this;
      const values = { extension: this.root.dataset.extension, cx: view.cx.toFixed(1), cy: view.cy.toFixed(1), scale: view.scale.toPrecision(4), x: view.x, y: view.y, stretch: display.stretch, show: display.show, low: form.low.value, high: form.high.value, where: view.where ? "1" : "" };
      for (const [key, value] of Object.entries(values)) value === null || value === "" ? query.delete(key) : query.set(key, value);
      history.replaceState(null, "", `?${query}${location.hash}`);
    }, 250);
  }
}

function span(low, high, side, length) { // first and last visible tile
  return [Math.max(0, Math.floor(low / side)), Math.min(Math.ceil(length / side) - 1, Math.floor(high / side))];
}
function clamp(value, low, high) { return Math.min(high, Math.max(low, value)); }
function round(value) { return Number.isInteger(value) ? String(value) : Math.abs(value) >= 1000 ? value.toFixed(0) : value.toFixed(2); }
function hide(pane, reason) {
  pane.figure.querySelector("figcaption").textContent = reason;
  pane.figure.querySelector(".screen").hidden = true;
}

function listen(pane) { // mouse, touch and keys
  const { canvas, viewer } = pane, pointers = new Map();
  let moved = 0;
  canvas.addEventListener("keydown", (event) => { if (viewer.key(event)) event.preventDefault(); });
  canvas.addEventListener("wheel", (event) => {
    if (!viewer.display) return;
    event.preventDefault();
    const at = pane.detector(event.clientX, event.clientY);
    viewer.zoom(2 ** (-event.deltaY / 240), at.x, at.y);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event);
    if (pointers.size === 1) moved = 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!viewer.display) return;
    const before = pointers.get(event.pointerId);
    if (!before) { const at = pane.detector(event.clientX, event.clientY); viewer.showValues(Math.floor(at.x), Math.floor(at.y)); return; }
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    moved += Math.hypot(dx, dy);
    if (pointers.size === 2) pinch(pane, pointers, event);
    else if (moved > 4) viewer.pan(-dx, dy);
    pointers.set(event.pointerId, event);
  });
  const release = (event) => {
    const wasDown = pointers.delete(event.pointerId);
    if (!wasDown || event.type !== "pointerup" || pointers.size || moved > 4 || !viewer.display) return;
    const at = pane.detector(event.clientX, event.clientY);
    viewer.pin(Math.floor(at.x), Math.floor(at.y));
  };
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, release);
}

function pinch(pane, pointers, event) {
  const [a, b] = [...pointers.values()], other = a.pointerId === event.pointerId ? b : a, before = pointers.get(event.pointerId);
  const distance = (pointer) => Math.max(1, Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY));
  const at = pane.detector((event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2);
  pane.viewer.zoom(distance(event) / distance(before), at.x, at.y);
}

function drawCut(canvas, lines, low, high, pinned) { // returns its range as text
  const ratio = window.devicePixelRatio || 1, style = getComputedStyle(document.body), pen = canvas.getContext("2d");
  const [w, h] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
  Object.assign(canvas, { width: w, height: h });
  const first = Math.max(0, Math.floor(low)), last = Math.min(lines[0].length, Math.ceil(high));
  let [least, most] = [Infinity, -Infinity];
  for (const line of lines) for (let n = first; n < last; n++) { least = Math.min(least, line[n]); most = Math.max(most, line[n]); }
  if (!(least <= most)) return "not visible";
  const x = (n) => (n - low) / (high - low) * w, y = (value) => h * 0.95 - (value - least) / Math.max(most - least, 1e-6) * h * 0.9;
  pen.strokeStyle = "#56b4e9";
  pen.beginPath(); pen.moveTo(x(pinned), 0); pen.lineTo(x(pinned), h); pen.stroke();
  lines.forEach((line, index) => {
    pen.strokeStyle = index ? "#d55e00" : style.color;
    pen.globalAlpha = index ? 0.6 : 1;
    pen.lineWidth = index ? 0.7 * ratio : ratio;
    pen.beginPath();
    for (let n = first; n < last; n++) { pen.lineTo(x(n), y(line[n])); pen.lineTo(x(n + 1), y(line[n])); }
    pen.stroke();
  });
  pen.globalAlpha = 1;
  return `${round(least)} to ${round(most)} ADU`;
}

document.addEventListener("DOMContentLoaded", () => {
  const root = document.querySelector(".viewer");
  if (!root) return;
  const viewer = new Viewer(root);
  viewer.open().catch((error) => viewer.showStatus(`The image cannot be shown: ${error.message}`));
});
