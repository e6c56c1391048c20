"use strict";
// Sorting of tables, words on hover and focus, and files to save. Without it, everything is visible or unfolds.
(() => {
  const tip = document.getElementById("tip");
  const live = document.getElementById("live");

  // ------------------------------------------------------------------ definitions and values

  function show(words, box) {
    tip.textContent = words;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - width - 8));
    const top = box.bottom + 6 + height > innerHeight && box.top - 6 - height > 0 ? box.top - 6 - height : box.bottom + 6;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${top + scrollY}px`;
  }

  function hide() { tip.hidden = true; }

  for (const link of document.querySelectorAll("a.word")) {
    const entry = document.getElementById(link.hash.slice(1));
    const definition = () => {
      link.setAttribute("aria-describedby", "tip");
      show(entry.nextElementSibling.textContent, link.getBoundingClientRect());
    };
    const end = () => { link.removeAttribute("aria-describedby"); hide(); };
    link.addEventListener("pointerenter", definition);
    link.addEventListener("focus", definition);
    link.addEventListener("pointerleave", end);
    link.addEventListener("blur", end);
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  // Points of a drawing: hover, or focus the drawing and use the arrow keys.
  for (const drawing of document.querySelectorAll(".drawing")) {
    const points = [...drawing.querySelectorAll(".point")];
    if (!points.length) continue;
    const words = points.map((point) => {
      const title = point.querySelector("title");
      title.remove(); // else the browser would show it as well
      return title.textContent;
    });
    let current = -1;
    const choose = (place) => {
      points[current]?.classList.remove("current");
      current = place;
      points[current]?.classList.add("current");
      if (!points[current]) { hide(); return; }
      points[current].scrollIntoView({ block: "nearest", inline: "nearest" });
      show(words[current], points[current].getBoundingClientRect());
      live.textContent = words[current];
    };
    points.forEach((point, place) => {
      point.addEventListener("pointerenter", () => show(words[place], point.getBoundingClientRect()));
      point.addEventListener("pointerleave", hide);
    });
    drawing.tabIndex = 0;
    drawing.setAttribute("aria-label", `${drawing.getAttribute("aria-label")} Arrow keys read its points.`);
    drawing.addEventListener("blur", () => choose(-1));
    drawing.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      choose((current + step + points.length + (current < 0 && step < 0)) % points.length);
    });
  }

  // ------------------------------------------------------------------ tables

  const compareTexts = new Intl.Collator(undefined, { numeric: true }).compare;

  function sort(head, button) {
    const table = head.closest("table");
    const isUp = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th")) {
      other.removeAttribute("aria-sort");
      other.querySelector("button").textContent = "\u2195";
    }
    head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
    button.textContent = isUp ? "\u2191" : "\u2193";
    const isNumber = head.classList.contains("number");
    const keyed = [...table.tBodies[0].rows].map((row) => {
      const text = row.cells[head.cellIndex].textContent;
      return { row, key: isNumber ? parseFloat(text) : text, isMissing: text === "\u2013" || (isNumber && isNaN(parseFloat(text))) };
    });
    keyed.sort((one, other) => {
      if (one.isMissing || other.isMissing) return one.isMissing - other.isMissing; // last in both orders
      return (isUp ? 1 : -1) * (isNumber ? one.key - other.key : compareTexts(one.key, other.key));
    });
    table.tBodies[0].append(...keyed.map(({ row }) => row));
  }

  for (const head of document.querySelectorAll("table.sortable th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "\u2195";
    button.setAttribute("aria-label", `Sort by ${head.textContent}`);
    button.addEventListener("click", () => sort(head, button));
    head.append(button);
  }

  // ------------------------------------------------------------------ files

  async function save(link) {
    const packed = Uint8Array.from(atob(link.href.slice(link.href.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
    const content = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const target = document.createElement("a");
    target.download = link.download.replace(/\.gz$/, "");
    target.href = URL.createObjectURL(await new Response(content).blob());
    target.click();
    setTimeout(() => URL.revokeObjectURL(target.href), 60000);
  }

  if ("DecompressionStream" in window) {
    for (const link of document.querySelectorAll("a.file")) {
      link.querySelector(".packed").remove();
      link.addEventListener("click", (event) => { event.preventDefault(); save(link); });
    }
  }
})();
