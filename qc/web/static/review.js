// Review queue by keyboard. Each key presses a button that also works without JavaScript.
// Label requests wait in the local storage until the server confirms them. Each has an idempotency
// key: no label is lost while the server is down, and none is added twice.
"use strict";
(() => {
  const single = document.getElementById("review"), grid = document.getElementById("grid");
  const keysDialog = document.getElementById("keys");
  const root = single || grid;
  if (!keysDialog) return;
  const user = root ? root.dataset.user : "", many = root ? Number(root.dataset.many) : 0;
  const PREFIX = `qc-review ${user} `, DONE = `qc-review-done ${user}`;
  const PREFETCH = 4, POLL_MS = 4000, LONGEST_DELAY_MS = 8000, TIMEOUT_MS = 20000;
  const element = (id) => document.getElementById(id);
  const showMessage = (words) => { element("message").textContent = words; };

  // --- queue of unsent requests ----------------------------------------------------------------
  let isSending = false, delay = 250, count = 0, problem = "";
  const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const unsent = () => Object.keys(localStorage).filter((name) => name.startsWith(PREFIX)).sort();
  function showUnsent() {
    const number = unsent().length;
    element("unsent").textContent = number ? `${number} not yet saved${problem}` : "";
    document.body.dataset.unsent = String(number);
  }
  function enqueue(request) {
    const name = `${PREFIX}${String(Date.now()).padStart(15, "0")}-${String(count++).padStart(6, "0")}`;
    try { localStorage.setItem(name, JSON.stringify(request)); } catch (error) {
      showMessage(`Not saved: the local storage of this browser is not available (${error.name})`);
      return false;
    }
    showUnsent();
    send();
    return true;
  }
  function csrfHeader() {
    const token = document.querySelector('meta[name="csrf"]');
    return token ? { "X-CSRF-Token": token.content } : {};
  }
  async function transmit(request) {
    const body = request.body ? JSON.stringify(request.body) : undefined;
    const headers = { "Content-Type": "application/json", ...csrfHeader() };
    return fetch(request.url, { method: request.method, headers, body, signal: AbortSignal.timeout(TIMEOUT_MS) });
  }
  function retryLater(reason) {
    problem = `: ${reason}`;
    setTimeout(send, delay);
    delay = Math.min(2 * delay, LONGEST_DELAY_MS);
  }
  async function send() {
    if (isSending) return;
    isSending = true;
    try {
      for (let name = unsent()[0]; name; name = unsent()[0]) {
        const request = JSON.parse(localStorage.getItem(name));
        let response, result;
        try {
          response = await transmit(request);
          result = await response.json();
        } catch { retryLater("the server does not respond; retrying"); return; }
        if (response.status >= 500 || response.status === 429) { retryLater(`server error ${response.status}; retrying`); return; }
        if (response.status === 401 || response.status === 403) { retryLater("log in again in another window"); return; }
        localStorage.removeItem(name);
        delay = 250;
        problem = "";
        if (response.ok) confirm(result); else showMessage(`Not saved: ${result.error || response.status}`);
        showUnsent();
      }
    } finally { isSending = false; showUnsent(); }
  }
  function confirm(result) {
    if (result.meanwhile.length) showMessage(result.meanwhile.join("; "));
    result.now.forEach(updateLabel);
  }

  // --- current labels of the displayed extensions ----------------------------------------------
  function updateLabel(label) {
    if (single) fragments.delete(label.extension);
    const item = document.querySelector(`[data-extension="${label.extension}"]`);
    if (!item) return;
    item.querySelector(".label").textContent = grid ? [label.label || "no label", label.kind.replaceAll("_", " ")].filter(Boolean).join(": ") : label.words;
    const checkbox = item.querySelector('input[name="extension"]');
    if (checkbox) checkbox.value = `${label.extension}:${label.id}`;
    item.dataset.label = label.id;
    const undo = item.querySelector('[value="undo"]');
    if (undo) undo.disabled = !label.id && !done().length;
  }
  async function poll() {
    const items = [...document.querySelectorAll("[data-extension]")];
    if (document.hidden || !items.length) return;
    const query = items.map((item) => `extension=${item.dataset.extension}`).join("&");
    try {
      const response = await fetch(`/api/v1/labels/of?${query}`);
      if (!response.ok) return;
      for (const label of await response.json()) {
        const item = document.querySelector(`[data-extension="${label.extension}"]`);
        if (!item || item.dataset.label === undefined || Number(item.dataset.label) === label.id) continue;
        if (label.who !== user && label.id) showMessage(`Meanwhile: ${label.words}`);
        updateLabel(label);
      }
    } catch { /* the line of unsent labels shows that the server is down */ }
  }

  // --- requests --------------------------------------------------------------------------------
  const done = () => JSON.parse(sessionStorage.getItem(DONE) || "[]");
  const setDone = (list) => sessionStorage.setItem(DONE, JSON.stringify(list.slice(-200)));
  function addLabel(value, ids, seen, options) {
    const [label, kind = ""] = value.split(":");
    const key = newKey();
    const body = { extensions: ids, label, kind, key, seen, ...options };
    if (!enqueue({ method: "POST", url: "/api/v1/labels", body })) return false;
    setDone([...done(), { key, ids }]);
    return true;
  }
  function undoLabel(ids, of) {
    const query = ids.map((id) => `extension=${id}`).join("&");
    return enqueue({ method: "DELETE", url: `/api/v1/labels?${query}&key=${newKey()}&of=${of}&sure=true` });
  }
  let unconfirmed = "";
  function isConfirmed(value, size, isChecked) {
    if (size <= many || isChecked || unconfirmed === value) { unconfirmed = ""; return true; }
    unconfirmed = value;
    showMessage(`${size} frames are more than ${many}: repeat the key or click to confirm`);
    return false;
  }

  // --- one at a time ---------------------------------------------------------------------------
  const fragments = new Map(), pictures = new Map();
  let ids = [], position = 0, after = "", query = "", navigation = 0;
  function fragment(id) {
    if (!fragments.has(id)) {
      const loading = fetch(`/review/frames/${id}?${query}`).then(async (response) => {
        if (!response.ok) throw new Error(`server error ${response.status}`);
        const html = await response.text();
        preloadPictures(html);
        return html;
      });
      loading.catch(() => fragments.delete(id));
      fragments.set(id, loading);
    }
    return fragments.get(id);
  }
  function preloadPictures(html) {
    for (const [, address] of html.matchAll(/<img src="([^"]+)"/g)) {
      if (pictures.has(address)) continue;
      const picture = new Image();
      picture.src = address;
      pictures.set(address, picture);
      if (pictures.size > 200) pictures.delete(pictures.keys().next().value);
    }
  }
  async function loadMore() {
    if (!after || ids.length - position > 2 * PREFETCH) return;
    const cursor = after;
    after = "";
    try {
      const response = await fetch(`/review/ahead?${query}&after=${encodeURIComponent(cursor)}`);
      const page = await response.json();
      ids.push(...page.ids.filter((id) => !ids.includes(id)));
      after = page.after;
    } catch { after = cursor; }
  }
  async function go(to) {
    if (to < 0) return showMessage("First extension");
    if (to >= ids.length) await loadMore();
    position = Math.min(to, ids.length);
    if (position === ids.length) {
      single.innerHTML = '<p class="done">No further extension matches these filters.</p>';
      return;
    }
    const request = ++navigation, id = ids[position];
    single.dataset.wanted = id;
    let html;
    try { html = await fragment(id); } catch (error) {
      if (request !== navigation) return;
      showMessage(`The next frame cannot be loaded: ${error.message}; retrying`);
      setTimeout(() => { if (request === navigation) go(position); }, 1000);
      return;
    }
    if (request !== navigation) return;
    single.innerHTML = html;
    const undo = single.querySelector('[value="undo"]');
    if (done().length) undo.disabled = false;
    history.replaceState(null, "", `/review?${query}${query ? "&" : ""}at=${id}`);
    ids.slice(position + 1, position + 1 + PREFETCH).forEach((next) => fragment(next).catch(() => {}));
    loadMore();
  }
  function answerSingle(value) {
    const frame = single.querySelector("article");
    if (!frame) { if (value === "undo") undoLast(); return; }
    if (value === "undo") return undoLast();
    const id = Number(frame.dataset.extension), form = frame.querySelector("form");
    const whole_set = Boolean(form.elements.whole_set?.checked);
    const size = whole_set ? Number(frame.dataset.setSize) : 1;
    if (!isConfirmed(value, size, form.elements.sure?.checked)) return;
    const options = { note: form.elements.note.value, whole_set, sure: size > many };
    if (!addLabel(value, [id], { [id]: Number(frame.dataset.label) }, options)) return;
    fragments.delete(id);
    showMessage(`${frame.dataset.name}${whole_set ? ` and its template set of ${size}` : ""}: ${value.replace(":", ", ").replaceAll("_", " ")}`);
    go(position + 1);
  }
  function undoLast() {
    const list = done(), last = list.pop();
    setDone(list);
    if (last) {
      undoLabel(last.ids, last.key);
      showMessage("Undone");
      if (!single) return;
      const [id] = last.ids;
      if (!ids.includes(id)) ids.splice(position, 0, id);
      fragments.delete(id);
      return void go(ids.indexOf(id));
    }
    const frame = single?.querySelector("article");
    if (frame && Number(frame.dataset.label)) { undoLabel([frame.dataset.extension], ""); showMessage("Undone"); } else showMessage("Nothing to undo");
  }
  function startSingle() {
    ids = single.dataset.ids.split(" ").filter(Boolean).map(Number);
    after = single.dataset.after;
    query = single.dataset.query;
    const frame = single.querySelector("article");
    if (frame) {
      if (done().length) single.querySelector('[value="undo"]').disabled = false;
      ids.slice(1, 1 + PREFETCH).forEach((id) => fragment(id).catch(() => {}));
    }
    document.querySelector(".noscript-next")?.classList.add("scripted");
    element("next")?.addEventListener("click", (event) => { event.preventDefault(); go(position + 1); });
    single.addEventListener("submit", (event) => {
      event.preventDefault();
      if (event.submitter) answerSingle(event.submitter.value);
    });
  }

  // --- grid ------------------------------------------------------------------------------------
  const checkboxes = () => [...grid.querySelectorAll('input[name="extension"]')];
  const selected = () => checkboxes().filter((checkbox) => checkbox.checked);
  let anchor = null;
  function showSelected() {
    element("selected").textContent = `${selected().length || "None"} selected`;
    unconfirmed = "";
  }
  function selectRange(to, state) {
    const all = checkboxes(), from = all.indexOf(anchor ?? to), until = all.indexOf(to);
    all.slice(Math.min(from, until), Math.max(from, until) + 1).forEach((checkbox) => { checkbox.checked = state; });
    showSelected();
  }
  function answerGrid(value) {
    const items = selected();
    const seen = Object.fromEntries(items.map((checkbox) => checkbox.value.split(":").map(Number)));
    const extensions = Object.keys(seen).map(Number);
    if (value === "undo") {
      if (!items.length) return undoLast();
      if (!isConfirmed(value, items.length, element("sure").checked)) return;
      undoLabel(extensions, "");
    } else {
      if (!items.length) return showMessage("Select frames first: click, Space, or a for all");
      if (!isConfirmed(value, items.length, element("sure").checked)) return;
      if (!addLabel(value, extensions, seen, { sure: items.length > many })) return;
      for (const checkbox of items) checkbox.closest("li").dataset.pending = "true";
    }
    showMessage(`${items.length} frames: ${value.replace(":", ", ").replaceAll("_", " ")}`);
    items.forEach((checkbox) => { checkbox.checked = false; });
    showSelected();
  }
  function moveFocus(key, extend) {
    const all = checkboxes(), here = all.indexOf(document.activeElement);
    const top = all[0].closest("li").offsetTop;
    const columns = all.filter((checkbox) => checkbox.closest("li").offsetTop === top).length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const to = all[Math.max(0, Math.min(all.length - 1, here < 0 ? 0 : here + steps[key]))];
    if (extend) { anchor ??= all[Math.max(here, 0)]; selectRange(to, true); } else anchor = to;
    to.focus();
  }
  function startGrid() {
    for (const item of grid.querySelectorAll("li")) item.dataset.label = item.querySelector("input").value.split(":")[1];
    grid.addEventListener("click", (event) => {
      const item = event.target.closest("li");
      if (!item || event.target.closest("a")) return;
      const checkbox = item.querySelector("input");
      if (event.shiftKey && anchor) {
        event.preventDefault();
        setTimeout(() => selectRange(checkbox, true)); // after the default action of the browser
      } else if (event.target === checkbox) { anchor = checkbox; showSelected(); }
    });
    element("select-all").addEventListener("click", () => {
      const state = selected().length < checkboxes().length;
      checkboxes().forEach((checkbox) => { checkbox.checked = state; });
      showSelected();
    });
    grid.addEventListener("submit", (event) => {
      event.preventDefault();
      if (event.submitter) answerGrid(event.submitter.value);
    });
  }

  // --- keys ------------------------------------------------------------------------------------
  async function toggleHelp() {
    if (keysDialog.open) return keysDialog.close();
    const response = await fetch("/review/keys");
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close (Esc)", autofocus: true });
    close.addEventListener("click", () => keysDialog.close());
    keysDialog.replaceChildren(close, page.getElementById("keys-content"));
    keysDialog.showModal();
  }
  function pressKind(event, kinds) {
    if (event.key === "Escape") { kinds.open = false; return true; }
    const likely = event.key === "Enter" ? kinds.querySelector(".likely") : null;
    // Enter presses a focused button or link by itself.
    if (event.key === "Enter" && document.activeElement?.closest("details.kinds button")) return false;
    const button = likely || [...kinds.querySelectorAll("[data-second]")].find((kind) => kind.dataset.second && kind.dataset.second === event.key);
    if (button) { kinds.open = false; button.click(); }
    return Boolean(button);
  }
  function pressButton(key) {
    if (key === "u") { if (single) answerSingle("undo"); else answerGrid("undo"); return true; }
    const target = document.querySelector(`.answer [data-key="${CSS.escape(key)}"]`);
    if (!target) return false;
    if (target.matches("details")) { target.open = true; target.querySelector("summary").focus(); } else target.click();
    return true;
  }
  const steps = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 };
  function handleKey(event) {
    const kinds = document.querySelector("details.kinds[open]");
    if (kinds && (pressKind(event, kinds) || (event.key.length === 1 && event.key !== " "))) return true;
    if (event.key === "?") { toggleHelp(); return true; }
    if (event.key === "w") { element("to-grid")?.click(); return true; }
    if (single && event.key in steps) { go(position + steps[event.key]); return true; }
    if (single && event.key === "n") { single.querySelector('[name="note"]')?.focus(); return true; }
    if (grid && event.key === "n") { element("next")?.click(); return true; }
    if (grid && event.key.startsWith("Arrow") && checkboxes().length) { moveFocus(event.key, event.shiftKey); return true; }
    return event.key.length === 1 && pressButton(event.key);
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const isTyping = event.target.matches('input:not([type="checkbox"]), select, textarea');
    if (isTyping && event.key === "Escape") event.target.blur();
    if (isTyping || keysDialog.open) return;
    if (handleKey(event)) event.preventDefault();
  });
  element("to-keys")?.addEventListener("click", (event) => { event.preventDefault(); toggleHelp(); });
  if (!root) return;
  if (single) startSingle(); else startGrid();
  window.addEventListener("online", send);
  window.addEventListener("storage", showUnsent);
  showUnsent();
  send();
  setInterval(poll, POLL_MS);
  document.body.dataset.ready = "true";
})();
