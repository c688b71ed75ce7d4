"use strict";
// State lives in the address, as in #show=wrong&sort=fewest&find=x&item=NAME&step=3, so that a view can be kept.
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

addEventListener("error", (event) => {
  one("#broken").hidden = false;
  one("#broken").append(` (${event.message})`);
});

const gallery = one("#gallery"), controls = one(".controls");
const items = [...gallery.children].map((element, order) => {
  const text = (selector) => " " + all(selector, element).map((token) => token.textContent).join(" ");
  return {
    element, order,
    name: one("h3", element).textContent,
    tokens: all("button.token", element),
    texts: [text(".reference .token"), text(".prediction .token")],
    errors: Number(element.dataset.errors),
    least: Number(element.dataset.least ?? 2), // what has no confidence comes last
    looksSame: "same" in element.dataset,
  };
});
const shows = {
  wrong: (item) => item.errors > 0,
  same: (item) => item.errors > 0 && item.looksSame,
  right: (item) => item.errors === 0,
  all: () => true,
};
const sorts = {
  order: () => 0,
  most: (a, b) => b.errors - a.errors,
  fewest: (a, b) => a.errors - b.errors,
  unsure: (a, b) => a.least - b.least,
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
};
const usual = { show: items.some(shows.wrong) ? "wrong" : "all", sort: "order", find: "", item: "", step: "" };
let state = { ...usual };
let shown = items;

// ---- which items ----

// Part of a name, or tokens in a row, of which the last may be a beginning.
function matches(item) {
  const wanted = state.find.trim().replace(/\s+/g, " ");
  return item.name.toLowerCase().includes(wanted.toLowerCase()) || item.texts.some((text) => text.includes(" " + wanted));
}

function arrange() {
  shown = items.filter((item) => shows[state.show](item) && matches(item));
  shown.sort((a, b) => sorts[state.sort](a, b) || a.order - b.order);
  const visible = new Set(shown);
  for (const item of items) item.element.hidden = !visible.has(item);
  gallery.append(...shown.map((item) => item.element));
  for (const button of all("[data-show]")) button.setAttribute("aria-pressed", button.dataset.show === state.show);
  controls.elements.sort.value = state.sort;
  if (controls.elements.find.value.trim() !== state.find) controls.elements.find.value = state.find;
  one("output").textContent = `${shown.length} of ${items.length} shown`;
  one("#none").hidden = shown.length > 0;
}

// ---- where the network looked ----

const canvas = document.createElement("canvas");

// Scroll something wide, so that its part from left to right (shares of its width) is in view.
function bring(scroll, left, right) {
  const { scrollWidth, clientWidth, scrollLeft } = scroll;
  const isInView = left * scrollWidth >= scrollLeft && right * scrollWidth <= scrollLeft + clientWidth;
  if (!isInView) scroll.scrollLeft = ((left + right) * scrollWidth - clientWidth) / 2;
}

function paint(item, index) {
  const sheet = one(".ink", item.element);
  canvas.remove();
  if (!sheet.dataset.maps) return;
  const [columns, rows] = sheet.dataset.cells.split(" ").map(Number);
  const [width, height] = sheet.dataset.covers.split(" ");
  item.maps ??= Uint8Array.from(atob(sheet.dataset.maps), (letter) => letter.charCodeAt(0));
  const cells = columns * rows, image = new ImageData(columns, rows);
  const map = item.maps.subarray(index * cells, (index + 1) * cells);
  map.forEach((level, cell) => image.data.set([255, 140, 0, 0.85 * level], 4 * cell));
  Object.assign(canvas, { width: columns, height: rows });
  Object.assign(canvas.style, { width: width + "%", height: height + "%" });
  canvas.getContext("2d").putImageData(image, 0, 0);
  sheet.append(canvas);
  const column = map.indexOf(255) % columns, share = width / 100 / columns;
  bring(sheet.parentElement, column * share, (column + 1) * share);
}

// Show one token of an item, here and there and in the image; null: none.
function look(item, index) {
  for (const element of all(".here")) element.classList.remove("here");
  for (const told of all(".told:not(:empty)")) told.replaceChildren();
  canvas.remove();
  if (item === null) return;
  const token = item.tokens[index];
  const [start, stop] = token.dataset.faces.split(" ").map(Number);
  const words = all(".reference .token", item.element).slice(start, stop);
  const boxes = all(".reference rect", item.element).filter(({ dataset }) => dataset.token >= start && dataset.token < stop);
  boxes.push(...all(`.prediction rect[data-token="${index}"]`, item.element));
  for (const element of [token, ...words, ...boxes]) element.classList.add("here");
  for (const box of boxes) {
    const { x, width } = box.getBBox(), whole = box.ownerSVGElement.viewBox.baseVal.width;
    bring(box.closest(".scroll"), x / whole, (x + width) / whole);
  }
  const code = document.createElement("code");
  code.textContent = token.textContent;
  const facts = token.title ? `, ${token.title}` : "";
  const reference = token.classList.contains("differs") ? `; reference: ${words.map((word) => word.textContent).join(" ") || "nothing"}` : "";
  one(".told", item.element).replaceChildren(`${index + 1} of ${item.tokens.length}: `, code, facts + reference);
  paint(item, index);
}

const chosen = () => items.find((item) => item.name === state.item) ?? null;
const lookAtChosen = () => look(chosen(), Number(state.step) - 1);

function choose(item, index, move = false) {
  for (const token of all("[aria-pressed=true].token")) token.setAttribute("aria-pressed", false);
  for (const other of all(".item.chosen")) other.classList.remove("chosen");
  state.item = item ? item.name : "";
  state.step = item ? String(index + 1) : "";
  if (item) {
    item.element.classList.add("chosen");
    item.tokens.forEach((token, place) => (token.tabIndex = place === index ? 0 : -1));
    item.tokens[index].setAttribute("aria-pressed", true);
    if (move) item.tokens[index].focus();
  }
  lookAtChosen();
  keep();
}

function step(item, by) {
  const index = item.name === state.item ? Number(state.step) - 1 + by : by > 0 ? 0 : item.tokens.length - 1;
  if (index >= 0 && index < item.tokens.length) choose(item, index, item.tokens.includes(document.activeElement));
}

// ---- the address ----

function keep() {
  const words = Object.entries(state).filter(([key, value]) => value !== usual[key]);
  try {
    history.replaceState(null, "", "#" + new URLSearchParams(words));
  } catch {} // some browsers refuse when it changes often
}

function restore() {
  const words = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  state = { ...usual };
  for (const key of ["find", "item", "step"]) state[key] = words[key] ?? "";
  if (Object.hasOwn(sorts, words.sort)) state.sort = words.sort;
  if (Object.hasOwn(shows, words.show)) state.show = words.show;
  else if (chosen() && !shows[state.show](chosen())) state.show = "all";
  arrange();
  const item = chosen() ?? (state.step ? shown.find(({ tokens }) => tokens.length) ?? null : null);
  if (item === null || !item.tokens.length) return choose(null, 0);
  const index = Math.min(Math.max(Math.round(Number(state.step)) || 1, 1), item.tokens.length) - 1;
  choose(item, index);
  item.tokens[index].scrollIntoView({ block: "center" });
}

// ---- what people do ----

function place(target) { // the item and the number of the token that something shows
  const article = target.closest?.(".item");
  const item = article && items.find(({ element }) => element === article);
  if (!item || !target.closest(".prediction")) return null;
  const index = target.dataset.token === undefined ? item.tokens.indexOf(target) : Number(target.dataset.token);
  return index < 0 ? null : { item, index };
}

gallery.addEventListener("pointerover", ({ target }) => {
  const at = place(target);
  if (at) look(at.item, at.index);
});
gallery.addEventListener("pointerout", ({ target }) => place(target) && lookAtChosen());
gallery.addEventListener("click", ({ target }) => {
  const at = place(target);
  if (at) choose(at.item, at.index);
  else if (target.dataset.step) step(items.find(({ element }) => element.contains(target)), Number(target.dataset.step));
});
addEventListener("keydown", (event) => {
  if (event.target.matches?.("input, select") || event.altKey || event.ctrlKey || event.metaKey) return;
  const item = place(event.target)?.item ?? chosen();
  if (!item) return;
  const focus = item.tokens.includes(event.target);
  if (event.key === "ArrowRight") step(item, 1);
  else if (event.key === "ArrowLeft") step(item, -1);
  else if (event.key === "Home" && focus) choose(item, 0, true);
  else if (event.key === "End" && focus) choose(item, item.tokens.length - 1, true);
  else if (event.key === "Escape") choose(null, 0);
  else return;
  event.preventDefault();
});
controls.addEventListener("click", ({ target }) => {
  if (!target.dataset.show) return;
  state.show = target.dataset.show;
  arrange();
  keep();
});
controls.addEventListener("input", () => {
  state.sort = controls.elements.sort.value;
  state.find = controls.elements.find.value.trim();
  arrange();
  keep();
});
controls.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", restore);

for (const button of all("[data-show]")) button.append(` ${items.filter(shows[button.dataset.show]).length}`);
for (const element of [controls, ...all(".steps")]) element.hidden = false;
restore();
document.documentElement.dataset.ready = "";
