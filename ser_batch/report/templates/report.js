// Theme, tips, player and table of the report. All text from files enters the page as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const shown = parts[0] ? parts : parts.slice(1);
  return shown.map((part, i) => (i ? String(part).padStart(2, "0") : part)).join(":");
}

// Light and dark: the reader's choice stays for other reports where the browser allows it.
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("ser-batch-theme", theme); } catch { /* not allowed for files in some browsers */ }
}
try {
  const kept = localStorage.getItem("ser-batch-theme");
  if (kept) document.documentElement.dataset.theme = kept;
} catch { /* as above */ }
byId("theme").addEventListener("click", () => {
  const chosen = document.documentElement.dataset.theme;
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(dark ? "light" : "dark");
});

// Tips: what a mark of a chart stands for.
const tip = byId("tip");
function showTip(text, event) {
  tip.textContent = text;
  tip.hidden = !text;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const top = Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
}
for (const chart of document.querySelectorAll(".chart")) {
  chart.addEventListener("pointermove", (event) => {
    const mark = event.target.closest("[aria-roledescription='bar'], [aria-roledescription='point']");
    if (!chart.closest(".timeline")) showTip(mark ? mark.getAttribute("aria-label") : "", event);
  });
  chart.addEventListener("pointerleave", () => { tip.hidden = true; });
}

// The player. Recordings are found by a link relative to this file.
const audio = byId("player-audio");
let playing = null;

function audioUrl(clipId) {
  // A name that is not UTF-8 shows its odd bytes as \xNN, which is where its link needs %NN.
  const escaped = clipId.split("/").map(encodeURIComponent).join("/");
  return data.audio + escaped.replace(/%5Cx([89a-f][0-9a-f])/g, "%$1");
}

function emotionTag(label) {
  const tag = make("span", "emotion");
  const index = data.labels.indexOf(label);
  if (index >= 0) {
    const swatch = make("i");
    swatch.style.background = `var(--emotion-${index})`;
    tag.append(swatch);
  }
  tag.append(label);
  return tag;
}

function setPlaying(button) {
  if (playing) playing.setAttribute("aria-pressed", "false");
  playing = button;
  if (playing) playing.setAttribute("aria-pressed", "true");
}

// Where to stop: a segment is played to its end.
let stopAt = Infinity;
audio.addEventListener("timeupdate", () => {
  if (audio.currentTime < stopAt) return;
  stopAt = Infinity;
  audio.pause();
});

function play(clipId, atS, label, button, toS) {
  stopAt = toS || Infinity;
  byId("player").hidden = false;
  byId("player-name").textContent = clipId + (atS ? `, from ${clock(atS)}` : "");
  byId("player-emotion").replaceChildren(...(label ? [emotionTag(label)] : []));
  byId("player-message").textContent = "";
  if (!data.audio) {
    byId("player-message").textContent = "The recordings are not where they were scanned, so they cannot be played.";
    return;
  }
  setPlaying(button || null);
  const url = audioUrl(clipId);
  const go = () => { audio.currentTime = atS || 0; };
  if (audio.dataset.clip !== clipId) {
    audio.dataset.clip = clipId;
    audio.src = url;
    audio.addEventListener("loadedmetadata", go, { once: true });
  } else {
    go();
  }
  audio.play().catch(() => { /* the error event tells the reader */ });
}
audio.addEventListener("error", () => {
  setPlaying(null);
  byId("player-message").textContent =
    "It cannot be played: the file is not where it was scanned, or the browser does not know its format.";
});
audio.addEventListener("pause", () => setPlaying(null));
byId("player-close").addEventListener("click", () => {
  audio.pause();
  byId("player").hidden = true;
});
document.addEventListener("click", (event) => {
  const button = event.target.closest(".play");
  if (!button) return;
  if (button === playing) audio.pause();
  else play(button.dataset.clip, Number(button.dataset.at || 0), button.dataset.emotion || "", button, Number(button.dataset.to || 0));
});
document.body.classList.toggle("no-audio", !data.audio);

// A click into a timeline plays from there; its plot area is the background of the chart's first group.
for (const figure of document.querySelectorAll(".timeline")) {
  const chart = figure.querySelector(".chart");
  const timeAt = (event) => {
    const svg = [...chart.querySelectorAll("svg")].find((item) => item.getClientRects().length);
    const box = svg.querySelector(".background").getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    return Number(figure.dataset.start) + share * (figure.dataset.end - figure.dataset.start);
  };
  chart.addEventListener("click", (event) => play(figure.dataset.clip, timeAt(event), "", null));
  chart.addEventListener("pointermove", (event) => showTip(`Listen from ${clock(timeAt(event))}`, event));
}

// Which section is being read.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(entry.target.id)?.setAttribute("aria-current", "true");
  }
}, { rootMargin: "-20% 0px -70% 0px" });
for (const section of document.querySelectorAll("main > section")) seen.observe(section);

// The table of files, or of files whose label changed between two runs.
const at = Object.fromEntries((data.fields || []).map((name, i) => [name, i]));
const percent = (value) => (value === null ? "" : `${(100 * value).toFixed(1)}\u00a0%`);
const flagsOf = (bits) => data.flags.filter((_, bit) => bits & (1 << bit));

function numberColumn(field, title, show) {
  return {
    title, data: at[field], className: "dt-type-numeric", type: "num",
    render: (value, kind) => (kind === "display" ? make("span", "", show(value)) : value ?? -1),
  };
}

function textColumn(field, title, className) {
  return {
    title, data: at[field], className: className || "", type: "string",
    render: (value, kind) => (kind === "display" ? make("span", "", value ?? "") : value ?? ""),
  };
}

function emotionColumn(field, title) {
  return {
    title, data: at[field], type: "string",
    render: (value, kind) => {
      const label = data.labels[value] ?? "";
      return kind === "display" ? (label ? emotionTag(label) : make("span")) : label;
    },
  };
}

const playColumn = {
  title: "Play", data: at.clip_id, orderable: false, searchable: false,
  render: (clipId, kind, row) => {
    if (kind !== "display") return clipId;
    const moment = row[at.moment_s];
    const label = data.labels[row[at.emotion ?? at.after]];
    const button = make("button", "play");
    button.type = "button";
    button.dataset.clip = clipId;
    if (moment) button.dataset.at = moment;
    if (label) button.dataset.emotion = label;
    const sign = make("span", "", "▶");
    sign.setAttribute("aria-hidden", "true");
    button.append(sign, moment ? ` ${clock(moment)}` : "");
    button.setAttribute("aria-label", `Play ${clipId}${moment ? ` from ${clock(moment)}` : ""}`);
    return button;
  },
};

function fileColumns() {
  const columns = [];
  if (data.labels.length) {
    columns.push(emotionColumn("emotion", "Emotion"), numberColumn("confidence", "Confidence", percent), {
      title: "Second", data: at.second_p, type: "num", className: "nowrap",
      render: (value, kind, row) => {
        if (kind !== "display") return value ?? -1;
        return make("span", "quiet-text", row[at.second] < 0 ? "" : `${data.labels[row[at.second]]} ${percent(value)}`);
      },
    });
  }
  const length = (value) => (value === null ? "" : value < 60 ? `${value.toFixed(value < 1 ? 2 : 1)}\u00a0s` : clock(value));
  columns.push(numberColumn("duration_s", "Length", length), ...data.metadata.map((name) => textColumn(name, name)));
  columns.push({
    title: "Remarks", data: at.flags, orderable: false, type: "string",
    render: (bits, kind, row) => {
      const words = flagsOf(bits);
      const reason = row[at.reason];
      if (kind !== "display") return `${row[at.status]} ${words.join(" ")} ${reason}`;
      const cell = make("span");
      if (row[at.status] !== "ok") cell.append(make("span", "tag warn", row[at.status]), " ");
      for (const word of words) cell.append(make("span", "tag", word), " ");
      if (reason) cell.append(make("span", "quiet-text", reason));
      return cell;
    },
  });
  return columns;
}

function comparisonColumns() {
  return [
    emotionColumn("before", "First run"), numberColumn("confidence_before", "Confidence", percent),
    emotionColumn("after", "Second run"), numberColumn("confidence_after", "Confidence", percent),
  ];
}

const filterValue = (id) => byId(id)?.value ?? "";

function passes(row) {
  const [emotion, least] = [filterValue("filter-emotion"), filterValue("filter-confidence")];
  const [status, flag] = [filterValue("filter-status"), filterValue("filter-flag")];
  if (emotion && row[at.emotion] !== Number(emotion)) return false;
  if (least && !(row[at.confidence] >= Number(least))) return false;
  if (status && row[at.status] !== status) return false;
  if (flag === "none") return row[at.flags] === 0;
  if (flag === "any") return row[at.flags] !== 0;
  return !flag || (row[at.flags] & (1 << Number(flag))) !== 0;
}

async function buildTable() {
  const library = byId("table-library");
  const place = byId("files-table");
  if (!library || !place) return;
  const url = URL.createObjectURL(new Blob([library.textContent], { type: "text/javascript" }));
  const { default: DataTable } = await import(url);
  URL.revokeObjectURL(url);

  const columns = [playColumn, textColumn("clip_id", "File", "name")];
  columns.push(...(data.kind === "comparison" ? comparisonColumns() : fileColumns()));
  // DataTables takes headings as HTML, and one may come from the user's metadata.
  for (const column of columns) column.title = make("span", "", column.title).innerHTML;

  const table = new DataTable(place, {
    data: data.rows, columns, deferRender: true, autoWidth: false, pageLength: 25, order: [],
    lengthMenu: [10, 25, 100, 500],
    layout: { topStart: null, topEnd: null, bottomStart: ["info", "pageLength"], bottomEnd: "paging" },
    language: {
      info: "_START_ to _END_ of _TOTAL_", infoEmpty: "no file", infoFiltered: "(out of _MAX_)",
      lengthMenu: "_MENU_ a page", zeroRecords: "No file fits these filters.", emptyTable: "No file.",
    },
  });
  table.search.fixed("filters", (_, row) => passes(row));
  const filters = [...document.querySelectorAll(".filters select, .filters input")];
  for (const filter of filters) {
    filter.addEventListener("input", () => table.search(filterValue("filter-text")).draw());
  }
  byId("filter-clear").addEventListener("click", () => {
    for (const filter of filters) filter.value = "";
    table.search("").draw();
  });
  byId("download").addEventListener("click", () => {
    const labelled = new Set([at.emotion, at.second, at.before, at.after]);
    const shown = (item, i) => (labelled.has(i) ? data.labels[item] : i === at.flags ? flagsOf(item).join(" ") : item);
    saveCsv(table.rows({ search: "applied" }).data().toArray().map((row) => row.map(shown)));
  });
  document.documentElement.dataset.table = "ready";
}

function saveCsv(rows) {
  const cell = (item) => {
    const text = String(item ?? "");
    // A leading =, +, - or @ would make a spreadsheet run it as a formula.
    const safe = typeof item === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const csv = [data.fields, ...rows].map((row) => row.map(cell).join(",")).join("\r\n");
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
  link.download = "files.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// The page is painted before the table is built.
requestAnimationFrame(() => setTimeout(buildTable));
