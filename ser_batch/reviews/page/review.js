// One clip at a time: sound and picture from the server, one key per answer. Text from outside is set as text alone.

const $ = id => document.getElementById(id);
const audio = new Audio();
audio.preservesPitch = true;

let state = null;
let shown = null; // number of the clip that is shown and can be answered
let picture = null;
let heardAt = null; // when its sound first began
let busy = false;
let started = false;
const loads = new Map(); // number -> promise of {sound, picture}

async function ask(path, body) {
  let response;
  try {
    response = await fetch(path, body === undefined ? {} : {method: "POST", body: JSON.stringify(body)});
  } catch {
    throw new Error("The review has ended. Start `ser-batch review` again and open its new address: what counts above is kept.");
  }
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Error(told.problem || `The server says ${response.status}.`);
  }
  return response;
}

function load(number) {
  if (!loads.has(number)) {
    loads.set(number, Promise.all([
      ask(`sound/${number}`).then(response => response.blob()).then(blob => URL.createObjectURL(blob)),
      ask(`picture/${number}`).then(response => response.json()),
    ]).then(([sound, drawing]) => ({sound, drawing})));
    loads.get(number).catch(() => loads.delete(number));
  }
  return loads.get(number);
}

function forget(kept) {
  for (const [number, loading] of loads) {
    if (kept.includes(number)) continue;
    loads.delete(number);
    loading.then(found => URL.revokeObjectURL(found.sound), () => {});
  }
}

function say(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text;
}

async function change(path, body) {
  if (busy) return false;
  busy = true;
  try {
    state = await (await ask(path, body)).json();
    show();
    return true;
  } catch (error) {
    say(error.message);
    return false;
  } finally {
    busy = false;
  }
}

function show() {
  document.title = `Review of ${state.run}`;
  $("run").textContent = `${state.run}, ${state.reviewer}`;
  const left = state.left_s ? `, about ${Math.max(1, Math.round(state.left_s / 60))} min left` : "";
  $("count").textContent = `${state.n_done} of ${state.n_wanted}${state.n_done < state.n_wanted ? left : ""}`;
  $("progress").max = Math.max(state.n_wanted, 1);
  $("progress").value = Math.min(state.n_done, state.n_wanted);
  $("aim").textContent = state.aim ? `${state.aim}; ${state.n_done} given so far.` : "";
  $("aim").hidden = !state.aim;
  $("notices").replaceChildren(...state.notices.map(text => Object.assign(document.createElement("li"), {textContent: text})));
  $("undo").disabled = $("undo-end").disabled = !state.n_standing;
  buttons($("labels"), state.labels);
  buttons($("others"), state.others);
  tellLast();
  const task = state.task;
  $("foot").hidden = !started;
  $("welcome").hidden = started || !task;
  $("work").hidden = !started || !task;
  $("end").hidden = !!task;
  if (!task) {
    audio.pause();
    shown = null;
  } else if (shown !== task.number) {
    present(task);
  }
}

function buttons(box, items) {
  const names = [...box.children].map(button => button.dataset.answer);
  if (names.length === items.length && items.every((item, i) => item.name === names[i])) return;
  box.replaceChildren(...items.map(item => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.answer = item.name;
    if (item.colours) {
      const dot = document.createElement("i");
      dot.style.setProperty("--light", item.colours[0]);
      dot.style.setProperty("--dark", item.colours[1]);
      button.append(dot);
    }
    const name = document.createElement("span");
    name.textContent = item.name;
    button.append(name);
    if (item.key.trim()) {
      const key = document.createElement("kbd");
      key.textContent = item.key.toUpperCase();
      button.append(key);
    }
    button.addEventListener("click", () => answer(item.name));
    return button;
  }));
}

function tellLast() {
  const last = state.last;
  if (!last) {
    $("last").textContent = "";
    return;
  }
  let text = `Kept: ${last.answer}${last.note ? `, “${last.note}”` : ""}.`;
  if ($("reveal").checked) text += ` The model: ${last.model_label}, ${Math.round(100 * last.model_confidence)} %.`;
  $("last").textContent = text;
}

async function present(task) {
  shown = null;
  picture = null;
  heardAt = null;
  audio.pause();
  say("");
  $("note-text").value = "";
  $("note-box").hidden = true;
  $("clip").textContent = task.clip;
  $("when").textContent = `${clock(task.start_s)} to ${clock(task.end_s)}${task.channel ? `, channel ${task.channel} alone` : ""}`;
  $("head").style.opacity = 0;
  for (const button of document.querySelectorAll(".answers button")) button.disabled = true;
  let found;
  try {
    found = await load(task.number);
  } catch (error) {
    if (state.task && state.task.number === task.number) say(error.message);
    return;
  }
  if (!state.task || state.task.number !== task.number) return; // another came meanwhile
  shown = task.number;
  picture = found.drawing;
  if (picture.is_cut) $("when").textContent += `, of which you hear the first ${Math.round(picture.duration_s)} s`;
  audio.src = found.sound;
  setSpeed();
  draw();
  for (const button of document.querySelectorAll(".answers button")) button.disabled = false;
  document.documentElement.dataset.shown = task.number;
  if (started) play();
  forget([task.number, state.next]);
  if (state.next !== null) load(state.next).catch(() => {});
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

function play() {
  if (shown === null) return;
  audio.currentTime = 0;
  audio.play().catch(() => {}); // the browser wants a click first: the button is there
}

audio.addEventListener("playing", () => {
  heardAt ??= performance.now();
  requestAnimationFrame(move);
});

function move() {
  if (!picture) return;
  $("head").style.opacity = audio.ended ? 0 : 1;
  $("head").style.left = `${100 * audio.currentTime / picture.duration_s}%`;
  if (!audio.paused && !audio.ended) requestAnimationFrame(move);
}

function setSpeed() {
  const slow = $("slower").getAttribute("aria-pressed") === "true";
  audio.defaultPlaybackRate = audio.playbackRate = slow ? 0.7 : 1;
}

async function answer(name) {
  if (shown === null || busy) return;
  const time_s = heardAt === null ? 0 : (performance.now() - heardAt) / 1000;
  await change("answer", {number: shown, answer: name, time_s, note: $("note-text").value});
}

function draw() {
  if (!picture) return;
  const {bands, frames} = picture;
  const levels = Uint8Array.from(atob(picture.levels), letter => letter.charCodeAt(0));
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const stops = dark ? [[26, 29, 34], [58, 84, 160], [236, 238, 241]] : [[255, 255, 255], [143, 165, 214], [27, 30, 35]];
  const ramp = Array.from({length: 256}, (_, level) => {
    const at = (level / 255) * (stops.length - 1);
    const i = Math.min(Math.floor(at), stops.length - 2);
    return stops[i].map((low, channel) => Math.round(low + (at - i) * (stops[i + 1][channel] - low)));
  });
  const small = new OffscreenCanvas(frames, bands);
  const image = new ImageData(frames, bands);
  for (let band = 0; band < bands; band++) {
    for (let frame = 0; frame < frames; frame++) {
      const place = 4 * ((bands - 1 - band) * frames + frame);
      image.data.set([...ramp[levels[band * frames + frame]], 255], place);
    }
  }
  small.getContext("2d").putImageData(image, 0, 0);
  const canvas = $("canvas");
  const scale = devicePixelRatio || 1;
  const width = (canvas.width = Math.round(canvas.clientWidth * scale));
  const height = (canvas.height = Math.round(canvas.clientHeight * scale));
  const context = canvas.getContext("2d");
  context.drawImage(small, 0, 0, width, height);
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--pitch");
  context.lineWidth = 2.5 * scale;
  context.lineJoin = context.lineCap = "round";
  context.beginPath();
  let down = false;
  picture.f0.forEach((place, i) => {
    const x = (width * (picture.f0_start_s + i * picture.f0_hop_s)) / picture.duration_s;
    if (place === null) down = false;
    else if (down) context.lineTo(x, height * (1 - place));
    else { context.moveTo(x, height * (1 - place)); down = true; }
  });
  context.stroke();
  $("before").style.width = `${(100 * picture.start_s) / picture.duration_s}%`;
  $("after").style.width = `${(100 * Math.max(picture.duration_s - picture.end_s, 0)) / picture.duration_s}%`;
  $("before").hidden = picture.start_s < 0.02;
  $("after").hidden = picture.duration_s - picture.end_s < 0.02;
  const part = !$("before").hidden || !$("after").hidden;
  $("question").textContent = `What does the voice ${part ? "between the lines " : ""}sound like?`;
}

function begin() {
  started = true;
  show();
  draw(); // what is hidden has no size
  play();
}

function note() {
  $("note-box").hidden = false;
  $("note-text").focus();
}

const TOOLS = {
  " ": () => (started ? play() : begin()),
  s: () => {
    const pressed = $("slower").getAttribute("aria-pressed") !== "true";
    $("slower").setAttribute("aria-pressed", pressed);
    setSpeed();
    play();
  },
  u: () => change("undo", {}),
  n: note,
  ".": () => state.task && change("skip", {number: state.task.number}),
};

$("start").addEventListener("click", begin);
$("play").addEventListener("click", TOOLS[" "]);
$("picture").addEventListener("click", TOOLS[" "]);
$("slower").addEventListener("click", TOOLS.s);
$("undo").addEventListener("click", TOOLS.u);
$("undo-end").addEventListener("click", TOOLS.u);
$("note").addEventListener("click", note);
$("skip").addEventListener("click", TOOLS["."]);
$("reveal").addEventListener("change", () => state && tellLast());
$("own").addEventListener("submit", event => {
  event.preventDefault();
  const name = $("own-text").value.trim();
  $("own-text").value = "";
  $("own-text").blur();
  if (name) answer(name);
});
$("note-text").addEventListener("keydown", event => {
  if (event.key === "Enter" || event.key === "Escape") event.target.blur();
});
$("own-text").addEventListener("keydown", event => {
  if (event.key === "Escape") event.target.blur();
});

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !state) return;
  if (event.target.matches("input:not([type=checkbox])")) return;
  const key = event.key.toLowerCase();
  // A button that has the focus is pressed by the space bar, as everywhere; the answers have keys of their own.
  if (key === " " && event.target.matches("button, input")) return;
  const tool = TOOLS[key];
  const item = [...state.labels, ...state.others].find(each => each.key === key);
  if (!tool && !(item && started)) return;
  event.preventDefault();
  if (tool && (started || key === " " || key === "u")) tool();
  else if (item) answer(item.name);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("resize", draw);

await change("state");
if (!state) {
  $("welcome").hidden = true;
  $("work").hidden = false;
}
document.documentElement.dataset.ready = "true";
