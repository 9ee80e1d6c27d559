"use strict";
// Shows the pictures of one variant, and that variant's panels. Everything shown is in the page.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const [stage, slider, variant] = ["stage", "slider", "variant"].map(byId);
const MODES = { s: "swipe", o: "onion", b: "blink", d: "difference", a: "all" };
const SLIDER_SAYS = {
  swipe: "Swipe: how much of the picture is the reference's",
  onion: "Onion skin: how opaque the candidate's picture is",
};
const BLINK_MS = 600;
let blinking;
const state = { cell: data.focus, at: 0, mode: "all", onTop: true };

const shownOf = () => data.cells[state.cell].shown;

function placeOverlay() {
  const candidate = byId("candidate");
  const share = Number(slider.value);
  candidate.style.clipPath = state.mode === "swipe" ? `inset(0 0 0 ${share}%)` : "none";
  candidate.style.opacity = state.mode === "onion" ? share / 100 : state.mode === "blink" && !state.onTop ? 0 : 1;
  byId("edge").style.left = `${share}%`;
  stage.dataset.top = candidate.style.opacity === "0" ? "reference" : "candidate";
}

function turn() {
  state.onTop = !state.onTop;
  placeOverlay();
}

function setMode(mode) {
  state.mode = mode;
  state.onTop = true;
  stage.className = mode;
  // It keeps its place where pictures of one size take turns.
  slider.classList.toggle("away", mode === "all");
  slider.disabled = !(mode in SLIDER_SAYS);
  slider.setAttribute("aria-label", SLIDER_SAYS[mode] || "Not used in this mode");
  for (const button of document.querySelectorAll("[data-mode]"))
    button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  clearInterval(blinking);
  if (mode === "blink") blinking = setInterval(turn, BLINK_MS);
  placeOverlay();
}

function linkTo(side, shown) {
  const link = document.createElement("a");
  link.href = shown.links[side];
  link.textContent = side;
  return link;
}

function showPicture(index) {
  const shown = shownOf()[index];
  const strip = byId("strip").children;
  for (const button of strip) button.setAttribute("aria-pressed", String(button === strip[index]));
  state.at = index;
  byId("viewer").classList.toggle("empty", !shown || !shown.pictures.reference);
  byId("links").replaceChildren();
  if (!shown) {
    byId("says").textContent = "No pictures are kept of this variant.";
    return;
  }
  const lossy = shown.pictures.reference ? "" : "too many pictures for one page: follow the links";
  byId("says").textContent = [shown.name, shown.says, lossy].filter(Boolean).join(": ");
  byId("gain").textContent = `x${shown.gain}`;
  stage.style.setProperty("--aspect", shown.aspect);
  for (const [name, picture] of Object.entries(shown.pictures)) byId(name).src = picture;
  byId("links").append("exact: ", linkTo("reference", shown), " · ", linkTo("candidate", shown));
}

function step(by) {
  const count = shownOf().length;
  if (count) showPicture((state.at + by + count) % count);
}

function showCell(number) {
  state.cell = number;
  variant.value = String(number);
  for (const panel of document.querySelectorAll("[data-cell]")) panel.hidden = panel.dataset.cell !== String(number);
  if (!stage) return;
  byId("strip").replaceChildren(
    ...shownOf().map((shown, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = shown.label;
      button.className = shown.differs ? "bad" : "";
      button.setAttribute("aria-label", shown.name);
      button.addEventListener("click", () => showPicture(index));
      return button;
    }),
  );
  showPicture(data.cells[number].worst);
}

function drag(event) {
  if (!(state.mode in SLIDER_SAYS) || !(event.buttons & 1)) return;
  const box = stage.getBoundingClientRect();
  slider.value = (100 * (event.clientX - box.left)) / box.width;
  placeOverlay();
}

function press(event) {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || target.tagName === "SELECT") return;
  const [key, keys] = [event.key, byId("keys")];
  if (keys && (keys.open || key === "?")) {
    if (key === "?") keys.open ? keys.close() : keys.showModal();
    return;
  }
  // A slider and a box that scrolls have the arrows for themselves.
  const arrows = target.tagName !== "INPUT" && !target.classList.contains("box");
  if (key === "v") variant.focus();
  else if (!stage) return;
  else if (key in MODES) setMode(MODES[key]);
  else if (key === "j" || (arrows && key === "ArrowRight")) step(1);
  else if (key === "k" || (arrows && key === "ArrowLeft")) step(-1);
  else return;
  event.preventDefault();
}

async function copy(button) {
  const command = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(command.textContent);
    button.textContent = "copied";
  } catch {
    // A page from a file may have no clipboard.
    getSelection().selectAllChildren(command);
    button.textContent = "selected";
  }
}

for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
// A model without pictures has no viewer.
if (stage) {
  slider.addEventListener("input", placeOverlay);
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointermove", drag);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("help").addEventListener("click", () => byId("keys").showModal());
  for (const button of document.querySelectorAll("[data-mode]"))
    button.addEventListener("click", () => setMode(button.dataset.mode));
  setMode(state.mode);
}
if (variant) {
  document.addEventListener("keydown", press);
  variant.addEventListener("change", () => showCell(Number(variant.value)));
  for (const name of document.querySelectorAll("[data-select]"))
    name.addEventListener("click", () => {
      showCell(Number(name.dataset.select));
      scrollTo(0, 0);
    });
  showCell(state.cell);
}
