// The review by keyboard. Every key presses a button that is there without scripts too.
// What is said waits in this browser until the server has heard it, under a key that the server
// knows again: nothing is lost while it is away, and nothing is said twice.
"use strict";
(() => {
  const box = document.getElementById("review"), wall = document.getElementById("wall");
  const keysDialog = document.getElementById("keys");
  const home = box || wall;
  if (!keysDialog) return;
  const who = home ? home.dataset.who : "", many = home ? Number(home.dataset.many) : 0;
  const PREFIX = `qc-review ${who} `, DONE = `qc-review-done ${who}`;
  const AHEAD = 4, POLL_MS = 4000, LONGEST_PAUSE_MS = 8000, PATIENCE_MS = 20000;
  const element = (id) => document.getElementById(id);
  const tell = (words) => { element("told").textContent = words; };

  // --- what was said and not yet heard ---------------------------------------------------------
  let sending = false, pause = 250, count = 0, complaint = "";
  const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (one) => one.toString(16).padStart(2, "0")).join("");
  const waiting = () => Object.keys(localStorage).filter((name) => name.startsWith(PREFIX)).sort();
  function tellUnsent() {
    const left = waiting().length;
    element("unsent").textContent = left ? `${left} not yet heard by the server${complaint}` : "";
    document.body.dataset.unsent = String(left);
  }
  function keep(request) {
    const name = `${PREFIX}${String(Date.now()).padStart(15, "0")}-${String(count++).padStart(6, "0")}`;
    try { localStorage.setItem(name, JSON.stringify(request)); } catch (error) {
      tell(`Not said: this browser cannot keep it (${error.name})`);
      return false;
    }
    tellUnsent();
    send();
    return true;
  }
  function token() {
    const mark = document.querySelector('meta[name="csrf"]');
    return mark ? { "X-CSRF-Token": mark.content } : {};
  }
  async function transmit(request) {
    const body = request.body ? JSON.stringify(request.body) : undefined;
    const headers = { "Content-Type": "application/json", ...token() };
    return fetch(request.url, { method: request.method, headers, body, signal: AbortSignal.timeout(PATIENCE_MS) });
  }
  function later(why) {
    complaint = `: ${why}`;
    setTimeout(send, pause);
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
  async function send() {
    if (sending) return;
    sending = true;
    try {
      for (let name = waiting()[0]; name; name = waiting()[0]) {
        const request = JSON.parse(localStorage.getItem(name));
        let answer, did;
        try {
          answer = await transmit(request);
          did = await answer.json();
        } catch { later("it does not answer; tried again"); return; }
        if (answer.status >= 500 || answer.status === 429) { later("it is in trouble; tried again"); return; }
        if (answer.status === 401 || answer.status === 403) { later("log in again, in another window"); return; }
        localStorage.removeItem(name);
        pause = 250;
        complaint = "";
        if (answer.ok) heard(did); else tell(`Not kept: ${did.error || answer.status}`);
        tellUnsent();
      }
    } finally { sending = false; tellUnsent(); }
  }
  function heard(did) {
    if (did.meanwhile.length) tell(did.meanwhile.join("; "));
    did.now.forEach(learn);
  }

  // --- what counts of the frames in sight, whoever said it -------------------------------------
  function learn(word) {
    if (box) parts.delete(word.extension);
    const inSight = document.querySelector(`[data-extension="${word.extension}"]`);
    if (!inSight) return;
    inSight.querySelector(".said").textContent = wall ? [word.label || "no label", word.kind.replaceAll("_", " ")].filter(Boolean).join(": ") : word.words;
    const tick = inSight.querySelector('input[name="extension"]');
    if (tick) tick.value = `${word.extension}:${word.id}`;
    inSight.dataset.seen = word.id;
    const undoing = inSight.querySelector('[value="undo"]');
    if (undoing) undoing.disabled = !word.id && !done().length;
  }
  async function poll() {
    const inSight = [...document.querySelectorAll("[data-extension]")];
    if (document.hidden || !inSight.length) return;
    const asked = inSight.map((one) => `extension=${one.dataset.extension}`).join("&");
    try {
      const answer = await fetch(`/api/v1/labels/of?${asked}`);
      if (!answer.ok) return;
      for (const word of await answer.json()) {
        const one = document.querySelector(`[data-extension="${word.extension}"]`);
        if (!one || one.dataset.seen === undefined || Number(one.dataset.seen) === word.id) continue;
        if (word.who !== who && word.id) tell(`Meanwhile: ${word.words}`);
        learn(word);
      }
    } catch { /* the line that tells of unsent labels tells of a server that is away */ }
  }

  // --- what was said last, to be undone --------------------------------------------------------
  const done = () => JSON.parse(sessionStorage.getItem(DONE) || "[]");
  const remember = (list) => sessionStorage.setItem(DONE, JSON.stringify(list.slice(-200)));
  function say(value, ids, seen, options) {
    const [label, kind = ""] = value.split(":");
    const key = newKey();
    const body = { extensions: ids, label, kind, key, seen, ...options };
    if (!keep({ method: "POST", url: "/api/v1/labels", body })) return false;
    remember([...done(), { key, ids }]);
    return true;
  }
  function takeBack(ids, of) {
    const asked = ids.map((one) => `extension=${one}`).join("&");
    return keep({ method: "DELETE", url: `/api/v1/labels?${asked}&key=${newKey()}&of=${of}&sure=true` });
  }
  let meant = "";
  function isSure(value, size, ticked) {
    if (size <= many || ticked || meant === value) { meant = ""; return true; }
    meant = value;
    tell(`${size} frames are more than ${many}: the same once more, and it is said`);
    return false;
  }

  // --- one at a time ---------------------------------------------------------------------------
  const parts = new Map(), pictures = new Map();
  let ids = [], at = 0, after = "", query = "", turning = 0;
  function part(id) {
    if (!parts.has(id)) {
      const coming = fetch(`/review/frames/${id}?${query}`).then(async (answer) => {
        if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
        const html = await answer.text();
        preload(html);
        return html;
      });
      coming.catch(() => parts.delete(id));
      parts.set(id, coming);
    }
    return parts.get(id);
  }
  function preload(html) {
    for (const [, address] of html.matchAll(/<img src="([^"]+)"/g)) {
      if (pictures.has(address)) continue;
      const picture = new Image();
      picture.src = address;
      pictures.set(address, picture);
      if (pictures.size > 200) pictures.delete(pictures.keys().next().value);
    }
  }
  async function more() {
    if (!after || ids.length - at > 2 * AHEAD) return;
    const place = after;
    after = "";
    try {
      const answer = await fetch(`/review/ahead?${query}&after=${encodeURIComponent(place)}`);
      const found = await answer.json();
      ids.push(...found.ids.filter((one) => !ids.includes(one)));
      after = found.after;
    } catch { after = place; }
  }
  async function go(to) {
    if (to < 0) return tell("This is the first");
    if (to >= ids.length) await more();
    at = Math.min(to, ids.length);
    if (at === ids.length) {
      box.innerHTML = '<p class="done">Nothing is left that these filters want.</p>';
      return;
    }
    const turn = ++turning, id = ids[at];
    box.dataset.wanted = id;
    let html;
    try { html = await part(id); } catch (error) {
      if (turn !== turning) return;
      tell(`The next frame does not come: ${error.message}; tried again`);
      setTimeout(() => { if (turn === turning) go(at); }, 1000);
      return;
    }
    if (turn !== turning) return;
    box.innerHTML = html;
    const undoing = box.querySelector('[value="undo"]');
    if (done().length) undoing.disabled = false;
    history.replaceState(null, "", `/review?${query}${query ? "&" : ""}at=${id}`);
    ids.slice(at + 1, at + 1 + AHEAD).forEach((one) => part(one).catch(() => {}));
    more();
  }
  function answerOne(value) {
    const frame = box.querySelector("article");
    if (!frame) { if (value === "undo") undoLast(); return; }
    if (value === "undo") return undoLast();
    const id = Number(frame.dataset.extension), form = frame.querySelector("form");
    const whole_set = Boolean(form.elements.whole_set?.checked);
    const size = whole_set ? Number(frame.dataset.beside) : 1;
    if (!isSure(value, size, form.elements.sure?.checked)) return;
    const options = { note: form.elements.note.value, whole_set, sure: size > many };
    if (!say(value, [id], { [id]: Number(frame.dataset.seen) }, options)) return;
    parts.delete(id);
    tell(`${frame.dataset.name}${whole_set ? ` and its set of ${size}` : ""}: ${value.replace(":", ", ").replaceAll("_", " ")}`);
    go(at + 1);
  }
  function undoLast() {
    const list = done(), last = list.pop();
    remember(list);
    if (last) {
      takeBack(last.ids, last.key);
      tell("Undone");
      if (!box) return;
      const [id] = last.ids;
      if (!ids.includes(id)) ids.splice(at, 0, id);
      parts.delete(id);
      return void go(ids.indexOf(id));
    }
    const frame = box?.querySelector("article");
    if (frame && Number(frame.dataset.seen)) { takeBack([frame.dataset.extension], ""); tell("Undone"); } else tell("Nothing to undo");
  }
  function startOne() {
    ids = box.dataset.ids.split(" ").filter(Boolean).map(Number);
    after = box.dataset.after;
    query = box.dataset.query;
    const shown = box.querySelector("article");
    if (shown) {
      if (done().length) box.querySelector('[value="undo"]').disabled = false;
      ids.slice(1, 1 + AHEAD).forEach((one) => part(one).catch(() => {}));
    }
    document.querySelector(".noscript-next")?.classList.add("scripted");
    element("next")?.addEventListener("click", (event) => { event.preventDefault(); go(at + 1); });
    box.addEventListener("submit", (event) => {
      event.preventDefault();
      if (event.submitter) answerOne(event.submitter.value);
    });
  }

  // --- the wall --------------------------------------------------------------------------------
  const ticks = () => [...wall.querySelectorAll('input[name="extension"]')];
  const chosen = () => ticks().filter((one) => one.checked);
  let anchor = null;
  function tellChosen() {
    element("chosen").textContent = `${chosen().length || "None"} chosen`;
    meant = "";
  }
  function choose(to, state) {
    const all = ticks(), from = all.indexOf(anchor ?? to), until = all.indexOf(to);
    all.slice(Math.min(from, until), Math.max(from, until) + 1).forEach((one) => { one.checked = state; });
    tellChosen();
  }
  function answerWall(value) {
    const some = chosen();
    const seen = Object.fromEntries(some.map((one) => one.value.split(":").map(Number)));
    const extensions = Object.keys(seen).map(Number);
    if (value === "undo") {
      if (!some.length) return undoLast();
      if (!isSure(value, some.length, element("sure").checked)) return;
      takeBack(extensions, "");
    } else {
      if (!some.length) return tell("Choose frames first: click, Space, or a for all");
      if (!isSure(value, some.length, element("sure").checked)) return;
      if (!say(value, extensions, seen, { sure: some.length > many })) return;
      for (const one of some) one.closest("li").dataset.pending = "true";
    }
    tell(`${some.length} frames: ${value.replace(":", ", ").replaceAll("_", " ")}`);
    some.forEach((one) => { one.checked = false; });
    tellChosen();
  }
  function move(step, extend) {
    const all = ticks(), here = all.indexOf(document.activeElement);
    const top = all[0].closest("li").offsetTop;
    const columns = all.filter((one) => one.closest("li").offsetTop === top).length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const to = all[Math.max(0, Math.min(all.length - 1, here < 0 ? 0 : here + steps[step]))];
    if (extend) { anchor ??= all[Math.max(here, 0)]; choose(to, true); } else anchor = to;
    to.focus();
  }
  function startWall() {
    for (const one of wall.querySelectorAll("li")) one.dataset.seen = one.querySelector("input").value.split(":")[1];
    wall.addEventListener("click", (event) => {
      const item = event.target.closest("li");
      if (!item || event.target.closest("a")) return;
      const tick = item.querySelector("input");
      if (event.shiftKey && anchor) {
        event.preventDefault();
        setTimeout(() => choose(tick, true)); // after the browser has had its say
      } else if (event.target === tick) { anchor = tick; tellChosen(); }
    });
    element("choose-all").addEventListener("click", () => {
      const state = chosen().length < ticks().length;
      ticks().forEach((one) => { one.checked = state; });
      tellChosen();
    });
    wall.addEventListener("submit", (event) => {
      event.preventDefault();
      if (event.submitter) answerWall(event.submitter.value);
    });
  }

  // --- keys ------------------------------------------------------------------------------------
  async function help() {
    if (keysDialog.open) return keysDialog.close();
    const answer = await fetch("/review/keys");
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close (Esc)", autofocus: true });
    close.addEventListener("click", () => keysDialog.close());
    keysDialog.replaceChildren(close, page.getElementById("keys-content"));
    keysDialog.showModal();
  }
  function second(event, kinds) {
    if (event.key === "Escape") { kinds.open = false; return true; }
    const likely = event.key === "Enter" ? kinds.querySelector(".likely") : null;
    // A focused button or link is pressed by Enter itself.
    if (event.key === "Enter" && document.activeElement?.closest("details.kinds button")) return false;
    const wanted = likely || [...kinds.querySelectorAll("[data-second]")].find((one) => one.dataset.second && one.dataset.second === event.key);
    if (wanted) { kinds.open = false; wanted.click(); }
    return Boolean(wanted);
  }
  function press(key) {
    if (key === "u") { if (box) answerOne("undo"); else answerWall("undo"); return true; }
    const target = document.querySelector(`.answer [data-key="${CSS.escape(key)}"]`);
    if (!target) return false;
    if (target.matches("details")) { target.open = true; target.querySelector("summary").focus(); } else target.click();
    return true;
  }
  const moves = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 };
  function act(event) {
    const kinds = document.querySelector("details.kinds[open]");
    if (kinds && (second(event, kinds) || (event.key.length === 1 && event.key !== " "))) return true;
    if (event.key === "?") { help(); return true; }
    if (event.key === "w") { element("to-wall")?.click(); return true; }
    if (box && event.key in moves) { go(at + moves[event.key]); return true; }
    if (box && event.key === "n") { box.querySelector('[name="note"]')?.focus(); return true; }
    if (wall && event.key === "n") { element("next")?.click(); return true; }
    if (wall && event.key.startsWith("Arrow") && ticks().length) { move(event.key, event.shiftKey); return true; }
    return event.key.length === 1 && press(event.key);
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const writing = event.target.matches('input:not([type="checkbox"]), select, textarea');
    if (writing && event.key === "Escape") event.target.blur();
    if (writing || keysDialog.open) return;
    if (act(event)) event.preventDefault();
  });
  element("to-keys")?.addEventListener("click", (event) => { event.preventDefault(); help(); });
  if (!home) return;
  if (box) startOne(); else startWall();
  window.addEventListener("online", send);
  window.addEventListener("storage", tellUnsent);
  tellUnsent();
  send();
  setInterval(poll, POLL_MS);
  document.body.dataset.ready = "true";
})();
