"use strict";
// Steers the pair: asks for a frame as soon as the one before has arrived, with the controls of that moment, and shows
// that one meanwhile.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const PICTURES = ["reference", "candidate", "difference"];
const COURSE = 300;
const state = { down: new Set(), mouse: [0, 0], paused: false, course: [], shownAt: 0 };

async function ask(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "X-Play-Token": data.token, "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error((await answer.text()) || answer.statusText);
  return answer.arrayBuffer();
}

// JSON and pictures, each behind its length: four bytes, the lowest first.
function unpacked(buffer) {
  const [view, parts] = [new DataView(buffer), []];
  for (let at = 0; at < buffer.byteLength; ) {
    const length = view.getUint32(at, true);
    parts.push(new Uint8Array(buffer, at + 4, length));
    at += 4 + length;
  }
  return [JSON.parse(new TextDecoder().decode(parts[0])), parts.slice(1)];
}

function controls() {
  const buttons = new Set();
  const mouse = state.mouse.map((moved) => moved / data.pixels);
  state.mouse = [0, 0];
  for (const key of state.down) {
    const meant = data.keys[key];
    if ("button" in meant) buttons.add(meant.button);
    else meant.mouse.forEach((moved, axis) => (mouse[axis] += moved));
  }
  return { buttons: [...buttons], mouse: mouse.map((moved) => Math.max(-1, Math.min(1, moved))) };
}

async function show(name, bytes) {
  const [picture, before] = [byId(name), byId(name).src];
  picture.src = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
  await picture.decode();
  URL.revokeObjectURL(before);
}

function tell(says) {
  const now = performance.now();
  const rate = state.shownAt ? `${(1000 / (now - state.shownAt)).toFixed(1)} frames a second` : "";
  state.shownAt = now;
  byId("says").textContent = [`frame ${says.frame}`, `mean |d| ${says.mean_abs.toPrecision(3)}`, `max |d| ${says.max_abs}`, rate].filter(Boolean).join(" · ");
  byId("says").dataset.frame = says.frame;
  byId("says").dataset.meanAbs = says.mean_abs;
  byId("gain").textContent = `x${says.gain}`;
  for (const side of ["reference", "candidate"]) byId(`${side}-seconds`).textContent = `${Math.round(1000 * says.seconds[side])} ms`;
  state.course = [...state.course, says.mean_abs].slice(-COURSE);
  const highest = Math.max(...state.course);
  byId("highest").textContent = highest.toPrecision(3);
  byId("line").setAttribute("points", state.course.map((value, at) => `${at},${60 - (58 * value) / (highest || 1)}`).join(" "));
}

async function present(says, pictures) {
  await Promise.all(PICTURES.map((name, at) => show(name, pictures[at])));
  tell(says);
}

async function frames() {
  // A frame is painted while the next is generated.
  let presented = Promise.resolve();
  for (;;) {
    if (state.paused || document.hidden) {
      await new Promise((resume) => setTimeout(resume, 100));
      state.shownAt = 0;
      continue;
    }
    try {
      const [says, pictures] = unpacked(await ask("frame", controls()));
      await presented;
      presented = present(says, pictures);
    } catch (error) {
      pause(true);
      byId("says").textContent = `stopped: ${error.message}`;
    }
  }
}

function pause(paused) {
  state.paused = paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
}

// What cannot be done is told, and the walk stays as it is.
async function attempt(what) {
  try {
    await what();
  } catch (error) {
    byId("says").textContent = error.message;
  }
}

const restart = () =>
  attempt(async () => {
    const seed = Number(byId("seed").value);
    if (!Number.isSafeInteger(seed) || seed < 0) throw new Error("the seed is a whole number, 0 or more");
    await ask("restart", { seed });
    state.course = [];
    pause(false);
  });

const keep = () =>
  attempt(async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([await ask("scenario", {})]));
    link.download = "walked.safetensors";
    link.click();
    URL.revokeObjectURL(link.href);
  });

function press(key, down) {
  state.down[down ? "add" : "delete"](key);
  for (const button of document.querySelectorAll("[data-key]"))
    if (button.dataset.key === key) button.classList.toggle("down", down);
}

const COMMANDS = { p: () => pause(!state.paused), r: restart, k: keep };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in data.keys) press(key, true);
  else if (key in COMMANDS && !event.repeat) COMMANDS[key]();
  else return;
  event.preventDefault();
});
document.addEventListener("keyup", (event) => press(event.key.length === 1 ? event.key.toLowerCase() : event.key, false));
window.addEventListener("blur", () => [...state.down].forEach((key) => press(key, false)));
byId("stage").addEventListener("click", () => byId("stage").requestPointerLock());
document.addEventListener("mousemove", (event) => {
  if (document.pointerLockElement === byId("stage")) state.mouse = [state.mouse[0] + event.movementX, state.mouse[1] + event.movementY];
});
for (const button of document.querySelectorAll("[data-key]")) {
  button.addEventListener("pointerdown", () => press(button.dataset.key, true));
  for (const kind of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(kind, () => press(button.dataset.key, false));
}
byId("pause").addEventListener("click", COMMANDS.p);
byId("restart").addEventListener("click", restart);
byId("keep").addEventListener("click", keep);
frames();
