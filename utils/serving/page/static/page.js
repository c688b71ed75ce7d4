"use strict";
// Strokes go to the server as strokes, each time that one is finished; what comes back is shown beside the ink. Text from
// outside enters the page as textContent only, and formulas as the SVG that our own typesetter drew.
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

const DEBOUNCE = 120; // milliseconds after a stroke, before it is read: the next one may come at once
const BEAM = 5;
const PEN = 3.2; // width of a stroke, CSS pixels
const PALM = 800; // milliseconds after the pen was used, in which a touch is the palm
const MARGIN = 24; // paper kept around ink that is made to fit
const MAX_ENLARGED = 3; // a small image is shown at most so many times as large as it is
const MAX_BYTES = Number(document.body.dataset.maxBytes);
const FRAMES = new Set(["{", "}", "^", "_", "&", "\\\\"]); // tokens that leave no ink
const SVG = "http://www.w3.org/2000/svg";

const paper = one("#paper"), canvas = one("#ink"), image = one("#image"), boxes = one("#boxes");
const readings = one("#readings"), message = one("#message"), status = one("#status");

// What is on the paper: strokes, each a list of points [x, y] in paper units; or an image. Never changed, only replaced,
// so that undo can go back to it.
let sheet = { strokes: [], file: null, url: "" };
const history = [];
let pen = null; // the stroke that is being written: { id, points }
let penUsed = -Infinity;
let scale = 1; // CSS pixels of a paper unit: less than 1 where the window became too small for the ink

// ---- the paper ----

function fit() {
  const points = sheet.strokes.flat();
  const right = Math.max(1, ...points.map(([x]) => x)), bottom = Math.max(1, ...points.map(([, y]) => y));
  const { clientWidth: width, clientHeight: height } = paper;
  scale = Math.min(1, (width - 8) / right, (height - 8) / bottom);
}

function draw() {
  const { clientWidth: width, clientHeight: height } = paper, density = devicePixelRatio || 1;
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  const context = canvas.getContext("2d");
  context.scale(density * scale, density * scale);
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
  context.strokeStyle = context.fillStyle = getComputedStyle(paper).getPropertyValue("--ink");
  for (const stroke of pen ? [...sheet.strokes, pen.points] : sheet.strokes) trace(context, stroke);
}

// A smooth curve: through the middles between points, bent by the points themselves.
function trace(context, points) {
  context.beginPath();
  const [x, y] = points[0];
  if (points.length === 1) {
    context.arc(x, y, PEN * 0.6, 0, 2 * Math.PI);
    return context.fill();
  }
  context.moveTo(x, y);
  for (let i = 1; i < points.length - 1; i++) {
    const [x, y] = points[i], [nextX, nextY] = points[i + 1];
    context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
  }
  context.lineTo(...points.at(-1));
  context.stroke();
}

// An image in the middle of the paper, and the boxes upon it; or the boxes upon all of the paper.
function arrange() {
  const { clientWidth: width, clientHeight: height } = paper, { naturalWidth, naturalHeight } = image;
  const hasImage = sheet.file && naturalWidth > 0;
  const size = hasImage ? [naturalWidth, naturalHeight] : [width / scale, height / scale];
  const growth = hasImage ? Math.min(MAX_ENLARGED, (width - MARGIN) / size[0], (height - MARGIN) / size[1]) : scale;
  const place = {
    width: `${size[0] * growth}px`, height: `${size[1] * growth}px`,
    left: `${(width - size[0] * growth) / 2}px`, top: `${(height - size[1] * growth) / 2}px`,
  };
  boxes.setAttribute("viewBox", `0 0 ${size.join(" ")}`);
  Object.assign(boxes.style, place);
  if (hasImage) Object.assign(image.style, place);
}

function refresh() {
  fit();
  draw();
  arrange();
  const isEmpty = !sheet.strokes.length && !sheet.file;
  one("#empty").hidden = !isEmpty || pen !== null;
  one("#undo").disabled = !history.length;
  one("#clear").disabled = isEmpty;
  image.hidden = !sheet.file || (image.src === sheet.url && image.complete && !image.naturalWidth);
  one("#unseen").hidden = !sheet.file || !image.hidden;
  paper.classList.toggle("has-image", Boolean(sheet.file));
  if (image.getAttribute("src") !== sheet.url) sheet.url ? (image.src = sheet.url) : image.removeAttribute("src");
}

function put(next) {
  history.push(sheet);
  sheet = next;
  refresh();
}

function undo() {
  if (!history.length) return;
  sheet = history.pop();
  refresh();
  read(0);
}

function clear() {
  if (!sheet.strokes.length && !sheet.file) return;
  put({ strokes: [], file: null, url: "" });
  read(0);
}

function pointOf(event) {
  const { left, top } = canvas.getBoundingClientRect();
  const round = (value) => Math.round((10 * value) / scale) / 10;
  return [round(event.clientX - left), round(event.clientY - top)];
}

function extend(event) {
  const events = event.getCoalescedEvents?.() ?? [];
  for (const each of events.length ? events : [event]) {
    const point = pointOf(each), [x, y] = pen.points.at(-1);
    if (Math.hypot(point[0] - x, point[1] - y) >= 0.7) pen.points.push(point);
  }
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.pointerType === "pen") penUsed = event.timeStamp;
  const isPalm = event.pointerType === "touch" && event.timeStamp - penUsed < PALM;
  if (pen || isPalm || event.button !== 0 || sheet.file) return;
  event.preventDefault();
  document.activeElement?.blur?.();
  pen = { id: event.pointerId, points: [pointOf(event)] };
  canvas.setPointerCapture(event.pointerId);
  point(null);
  clearTimeout(timer); // what is half written is not read
  refresh();
});
canvas.addEventListener("pointermove", (event) => {
  if (pen?.id === event.pointerId) {
    if (event.pointerType === "pen") penUsed = event.timeStamp;
    extend(event);
    draw();
  } else if (!pen && event.pointerType !== "touch") {
    point(tokenAt(event));
  }
});
canvas.addEventListener("pointerleave", () => pen || point(null));
for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, (event) => {
    if (pen?.id !== event.pointerId) return;
    if (kind === "pointerup") extend(event);
    const { points } = pen;
    pen = null;
    if (kind === "pointercancel" && points.length < 3) refresh(); // the beginning of another gesture
    else put({ ...sheet, strokes: [...sheet.strokes, points] });
    read(DEBOUNCE);
  });
}
addEventListener("keydown", (event) => {
  if (event.target.matches?.("textarea, input:not([type=file])")) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    undo();
  } else if (event.key === "Escape") clear();
});
one("#undo").addEventListener("click", undo);
one("#clear").addEventListener("click", clear);
new ResizeObserver(refresh).observe(paper);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

// ---- images and files ----

function take(file) {
  if (!file) return;
  if (file.size > MAX_BYTES) {
    const size = (file.size / 2 ** 20).toFixed(1);
    return complain(`${file.name || "The image"} has ${size} MB; expected at most ${MAX_BYTES / 2 ** 20} MB`);
  }
  const isInk = /\.(inkml|json)$/i.test(file.name);
  if (isInk) return readFile(file);
  put({ strokes: [], file, url: URL.createObjectURL(file) });
  read(0);
}

// A file of ink becomes ink on the paper, and one can write on.
async function readFile(file) {
  const answer = await ask(form(file), "lines=join&include=strokes");
  if (!answer?.strokes) return;
  const points = answer.strokes.flat();
  const [left, right] = [Math.min, Math.max].map((end) => points.reduce((found, [x]) => end(found, x), points[0][0]));
  const [top, bottom] = [Math.min, Math.max].map((end) => points.reduce((found, [, y]) => end(found, y), points[0][1]));
  const room = { width: paper.clientWidth - 2 * MARGIN, height: paper.clientHeight - 2 * MARGIN };
  const growth = 0.9 * Math.min(room.width / (right - left || 1), room.height / (bottom - top || 1));
  const move = ([x, y]) => [
    MARGIN + (room.width - growth * (right - left)) / 2 + growth * (x - left),
    MARGIN + (room.height - growth * (bottom - top)) / 2 + growth * (y - top),
  ].map((value) => Math.round(10 * value) / 10);
  put({ strokes: answer.strokes.map((stroke) => stroke.map(move)), file: null, url: "" });
  read(0);
}

function form(file) {
  const data = new FormData();
  data.append("file", file, file.name || "image");
  return { body: data };
}

for (const input of all("input[type=file]")) {
  input.addEventListener("change", () => {
    take(input.files[0]);
    input.value = ""; // the same file may be chosen again
  });
}
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])][0];
  if (file) {
    event.preventDefault();
    take(file);
  }
});
let entered = 0;
for (const [kind, change] of [["dragenter", 1], ["dragleave", -1], ["drop", 0], ["dragover", null]]) {
  addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    if (change !== null) entered = change && Math.max(0, entered + change);
    one("#drop").hidden = entered === 0;
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
image.addEventListener("load", () => {
  arrange();
  showBoxes();
});
image.addEventListener("error", () => {
  image.hidden = true;
  one("#unseen").hidden = !sheet.file;
});

// ---- reading ----

let timer = 0, asked = 0, controller = null;

function read(delay) {
  clearTimeout(timer);
  one(".read").setAttribute("aria-busy", true);
  timer = setTimeout(() => {
    if (!sheet.strokes.length && !sheet.file) return forget();
    if (sheet.file) ask(form(sheet.file), "lines=split&include=typeset").then(show);
    else {
      const body = JSON.stringify(sheet.strokes);
      ask({ body, headers: { "Content-Type": "application/json" } }, "lines=join&include=typeset").then(show);
    }
  }, delay);
}

// The answer, or null where a newer question was asked meanwhile or something was wrong, which is then told.
async function ask(request, settings) {
  controller?.abort();
  controller = new AbortController();
  const number = ++asked, { signal } = controller, started = performance.now();
  one(".read").setAttribute("aria-busy", true);
  try {
    for (;;) {
      const response = await fetch(`/recognize?beam=${BEAM}&${settings}`, { method: "POST", ...request, signal });
      const answer = await response.json();
      if (number !== asked) return null;
      if (response.status === 503) {
        status.textContent = "Many are being read; trying again …";
        await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get("Retry-After") ?? 1)));
        if (number !== asked) return null;
        continue;
      }
      if (!response.ok) {
        if (response.status === 415 && sheet.file) sheet = history.pop(); // no image: what was there before comes back
        refresh();
        return complain(answer.detail);
      }
      status.textContent = `Read in ${Math.round(performance.now() - started)} ms.`;
      return answer;
    }
  } catch (error) {
    if (number !== asked || error.name === "AbortError") return null;
    return complain("The server does not answer; is demo.py still running?");
  } finally {
    if (number === asked) one(".read").setAttribute("aria-busy", false);
  }
}

function complain(text) {
  forget();
  message.textContent = text;
  message.hidden = false;
  one("#hint").hidden = true;
  return null;
}

function forget() {
  asked += 1; // what is still on its way is too late
  controller?.abort();
  one(".read").setAttribute("aria-busy", false);
  message.hidden = true;
  status.textContent = "";
  readings.replaceChildren();
  boxes.replaceChildren();
  shown = [];
  one("#hint").hidden = false;
}

// ---- what was read ----

let shown = []; // for each line of writing: { element, answer, latex, mathml, svg, spots }

function show(answer) {
  if (!answer) return;
  message.hidden = true;
  one("#hint").hidden = true;
  shown = answer.readings.map(showReading);
  readings.replaceChildren(...shown.map(({ element }) => element));
  for (const { element } of shown) grow(one("textarea", element));
  showBoxes();
}

function showReading(answer, index) {
  const element = one("#reading").content.firstElementChild.cloneNode(true);
  const reading = { element, answer, index, spots: answer.stroke_boxes ?? answer.boxes };
  if (answer.lines > 1) {
    one(".which", element).textContent = `Line ${answer.line} of ${answer.lines}`;
    one(".which", element).hidden = false;
  }
  one(".warnings", element).append(...answer.warnings.map((text) => filled("li", text)));
  one(".tokens", element).append(...answer.tokens.map((token, i) => chip(token, answer.confidences[i], i)));
  one(".sure", element).textContent = `${percent(answer.confidence)} sure of all ${answer.tokens.length} together`;
  const others = [answer, ...answer.alternatives];
  one(".others", element).hidden = others.length < 2;
  one(".alternatives", element).append(...others.map((other, i) => alternative(reading, other, i)));
  choose(reading, answer, 0);
  return reading;
}

const percent = (share) => `${share > 0.995 && share < 1 ? "> 99" : Math.round(100 * share)} %`;

function filled(tag, text, name = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = name;
  return element;
}

function chip(token, confidence, index) {
  const element = filled("button", "", `token ${confidence >= 0.9 ? "sure" : confidence >= 0.6 ? "fair" : "poor"}`);
  element.type = "button";
  element.classList.toggle("frame", FRAMES.has(token));
  element.dataset.token = index;
  element.title = `${token}: ${(100 * confidence).toFixed(1)} % sure`;
  element.append(filled("b", token), filled("small", Math.round(100 * confidence)));
  return element;
}

// Of an alternative the network's mean probability of a token is told: formulas of different lengths can be compared.
function alternative(reading, other, index) {
  const element = filled("button", "", "alternative");
  Object.assign(element, { type: "button", title: other.latex });
  element.setAttribute("role", "radio");
  const drawn = filled("span", "", "drawn");
  drawn.append(other.typeset?.svg ? svgOf(other.typeset.svg) : filled("code", other.latex || "nothing"));
  const sure = filled("small", `${percent(Math.exp(other.score))} a token`);
  sure.title = "geometric mean of the probabilities of its tokens";
  element.append(drawn, sure);
  element.addEventListener("click", () => choose(reading, other, index));
  return element;
}

function choose(reading, other, index) {
  all(".alternative", reading.element).forEach((each, i) => each.setAttribute("aria-checked", i === index));
  one("textarea", reading.element).value = other.latex;
  grow(one("textarea", reading.element));
  reading.isFirst = index === 0;
  one(".source em", reading.element).hidden = true;
  all(".certainty, .tokens", reading.element).forEach((each) => (each.hidden = !reading.isFirst));
  typeset(reading, other.latex, other.typeset);
}

function typeset(reading, latex, { svg, mathml, error }) {
  Object.assign(reading, { latex, svg, mathml });
  const place = one(".typeset", reading.element);
  place.setAttribute("aria-label", latex || "nothing was read");
  place.replaceChildren(svg ? svgOf(svg) : filled("p", latex ? `It cannot be drawn: ${error}` : "nothing was read", "nothing"));
  for (const button of all("[data-copy]", reading.element)) button.disabled = !latex || (button.dataset.copy !== "latex" && !svg);
}

function svgOf(text) {
  const { documentElement } = new DOMParser().parseFromString(text, "image/svg+xml");
  return document.importNode(documentElement, true);
}

// LaTeX that a person changes is typeset as they type.
let typing = 0;
function edit(reading) {
  const latex = one("textarea", reading.element).value.trim(), number = ++typing;
  one(".source em", reading.element).hidden = latex === reading.answer.latex;
  reading.isFirst = latex === reading.answer.latex;
  all(".alternative", reading.element).forEach((each) => each.setAttribute("aria-checked", each.title === latex));
  clearTimeout(reading.timer);
  reading.timer = setTimeout(async () => {
    if (!latex) return typeset(reading, "", {});
    const [svg, mathml] = await Promise.all(["svg", "mathml"].map((format) => fetch(address(latex, format))));
    const texts = await Promise.all([svg, mathml].map((response) => response.text()));
    if (number !== typing) return;
    if (svg.ok && mathml.ok) typeset(reading, latex, { svg: texts[0], mathml: texts[1] });
    else typeset(reading, latex, { error: JSON.parse(svg.ok ? texts[1] : texts[0]).detail });
  }, 200);
}
const address = (latex, format) => "/typeset?" + new URLSearchParams({ latex, format });

function grow(area) { // where the browser does not let it grow by itself
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

// ---- where each token was seen ----

function showBoxes() {
  boxes.replaceChildren();
  if (sheet.file && !image.naturalWidth) return; // not loaded yet, or nothing that this browser can show
  for (const { spots, index } of shown) {
    spots.forEach(([left, top, right, bottom], token) => {
      const box = document.createElementNS(SVG, "rect"), about = { x: left, y: top, width: right - left, height: bottom - top };
      for (const [name, value] of Object.entries(about)) box.setAttribute(name, value);
      Object.assign(box.dataset, { reading: index, token });
      boxes.append(box);
    });
  }
}

// The smallest box below the pointer.
function tokenAt({ clientX, clientY }) {
  const area = ({ width, height }) => width * height;
  const found = all("rect", boxes).map((box) => ({ box, place: box.getBoundingClientRect() }))
    .filter(({ place: { left, right, top, bottom } }) => left <= clientX && clientX <= right && top <= clientY && clientY <= bottom)
    .sort((a, b) => area(a.place) - area(b.place))[0];
  return found ? { reading: shown[Number(found.box.dataset.reading)], token: found.box.dataset.token } : null;
}

// Show one token in the ink, in the formula and in the list; null: none.
function point(at) {
  for (const element of all(".here")) element.classList.remove("here");
  if (!at?.reading?.isFirst) return;
  const { reading, token } = at, places = `[data-token="${token}"]`;
  const elements = [...all(places, one(".tokens", reading.element)), ...all(places, one(".typeset", reading.element))];
  elements.push(...all(`rect[data-reading="${reading.index}"]${places}`, boxes));
  for (const element of elements) element.classList.add("here");
}

// ---- what people do with it ----

const readingOf = (target) => shown.find(({ element }) => element.contains(target));

for (const kind of ["pointerover", "focusin"]) {
  readings.addEventListener(kind, ({ target }) => {
    const token = target.closest?.(".tokens [data-token], .typeset [data-token]");
    point(token ? { reading: readingOf(token), token: token.dataset.token } : null);
  });
}
readings.addEventListener("pointerleave", () => point(null));
readings.addEventListener("input", ({ target }) => {
  if (!target.matches("textarea")) return;
  grow(target);
  edit(readingOf(target));
});
readings.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-copy]");
  if (!button) return;
  const reading = readingOf(button), kind = button.dataset.copy, name = kind === "png" ? "PNG" : button.textContent;
  const told = await (kind === "png" ? copyImage(reading) : copyText(kind === "svg" ? standalone(reading.svg) : reading[kind]));
  button.textContent = told;
  button.classList.add("done");
  setTimeout(() => {
    button.textContent = name;
    button.classList.remove("done");
  }, 1300);
});

const standalone = (svg) => svg.replace('fill="currentColor"', 'fill="#000"');

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not allowed, or not there: browsers offer it to https and localhost alone
    const area = filled("textarea", text);
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    if (!isCopied) return "Not allowed";
  }
  return "Copied ✓";
}

async function copyImage({ latex }) {
  const file = fetch(address(latex, "png")).then((response) => response.blob());
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": file })]);
    return "Copied ✓";
  } catch {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await file), download: "formula.png" });
    link.click();
    URL.revokeObjectURL(link.href);
    return "Saved ✓";
  }
}

refresh();
document.documentElement.dataset.ready = "";
