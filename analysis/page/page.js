
"use strict";
// Everything stands in the page without this script; it adds sorting, finding and shorter lists.

function value(row, column) {
  const cell = row.cells[column];
  if ("v" in cell.dataset) return Number(cell.dataset.v);
  return cell.textContent.trim();
}

// Numbers before words, what is missing last in both directions.
function order(a, b, sign) {
  const missing = (a === "") - (b === "");
  if (missing) return missing;
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * a.localeCompare(b, undefined, { numeric: true });
}

function table(element) {
  const body = element.tBodies[0], original = [...body.rows], heads = [...element.tHead.rows[0].cells];
  const most = Number(element.dataset.most), scroll = element.parentElement;
  let all = original.length <= most, words = "";

  function show() {
    let shown = 0;
    for (const row of body.rows) {
      const found = row.textContent.toLowerCase().includes(words);
      row.hidden = !found || (!all && shown >= most);
      if (!row.hidden) shown += 1;
    }
  }

  function sort(column) {
    const head = heads[column], now = head.getAttribute("aria-sort");
    const next = { none: "ascending", ascending: "descending", descending: "none" }[now];
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    const sign = next === "descending" ? -1 : 1, rows = [...original];
    if (next !== "none") rows.sort((a, b) => order(value(a, column), value(b, column), sign));
    body.append(...rows);
    show();
  }

  if (original.length > 1) heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(column));
  });
  if (original.length > 12) {
    const tools = document.createElement("div"), find = document.createElement("input");
    tools.className = "tools";
    find.type = "search";
    find.placeholder = "Find in this table";
    find.setAttribute("aria-label", "Find in this table");
    find.addEventListener("input", () => { words = find.value.toLowerCase(); show(); });
    tools.append(find);
    if (!all) {
      const more = document.createElement("button");
      more.type = "button";
      const name = () => { more.textContent = all ? `Show ${most} rows` : `Show ${original.length} rows`; };
      more.addEventListener("click", () => { all = !all; name(); show(); });
      name();
      tools.append(more);
    }
    scroll.before(tools);
  }
  show();
}

// The table of contents: open beside the text, folded above it; marks where the reader is.
function contents() {
  const fold = document.getElementById("contents"), wide = matchMedia("(min-width: 64rem)");
  const fit = () => { fold.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
  const links = new Map([...fold.querySelectorAll("a")].map((a) => [decodeURIComponent(a.hash.slice(1)), a]));
  for (const link of links.values()) link.addEventListener("click", fit);
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "0px 0px -75% 0px" });
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);
}

// A finger cannot rest on a point as a pointer does, so it is told what the point is when it touches.
function touch() {
  const said = document.createElement("div");
  said.id = "said";
  said.hidden = true;
  said.setAttribute("role", "status");
  document.body.append(said);
  document.addEventListener("pointerdown", (event) => {
    const tip = event.pointerType === "mouse" ? null : event.target.closest?.("svg .tip, td[title], th[title]");
    said.hidden = !tip;
    if (!tip) return;
    said.textContent = tip.getAttribute("title") ?? tip.querySelector("title").textContent;
    said.style.left = `${Math.max(8, Math.min(event.clientX, innerWidth - said.offsetWidth - 8))}px`;
    said.style.top = `${Math.max(8, event.clientY - said.offsetHeight - 12)}px`;
  });
}

// What an address in the page points to must not stay folded; paper folds nothing.
function unfold() {
  const reveal = () => {
    const target = document.querySelector(":target");
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target?.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  if (location.hash) reveal();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("main details:not([open])")];
    for (const fold of closed) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of closed) fold.open = false; });
}

document.querySelectorAll("table").forEach(table);
contents();
touch();
unfold();
