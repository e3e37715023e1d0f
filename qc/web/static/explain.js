// Loads the cost of flagging after the page, as its computation is slow.
"use strict";
document.addEventListener("DOMContentLoaded", async () => {
  const section = document.querySelector("[data-load]");
  if (!section) return;
  const status = document.createElement("p");
  status.setAttribute("role", "status");
  status.textContent = "Computing …";
  section.append(status);
  try {
    const response = await fetch(section.dataset.load);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const cost = page.getElementById("cost");
    if (!response.ok || !cost) throw new Error(page.querySelector("main")?.textContent.trim() ?? response.status);
    section.replaceWith(document.importNode(cost, true));
  } catch (error) {
    status.textContent = `The cost could not be computed: ${error.message}`;
  }
});
