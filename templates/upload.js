// Uploads to a bucket, straight from the page. The JSON in #page says where to, with which signed fields, and how much.
const AT_ONCE = 3, TRIES = 4, STALL = 60e3, ROWS = 300; // files at once; tries of each; ms without a byte; rows at most
const expires = Date.parse(page.expires);
const items = []; // {file, path, state, sent, why, again, tries, row…}; state: waiting, sending, pausing, stored, failed, refused
let running = false, over = "", rows = 0, drawing = false;

const taken = new Set(), known = new Set();

function unused(path) {
  const [, stem, ending] = /^(.*?)(\.[^./]*)?$/s.exec(path);
  let name = path;
  for (let number = 2; taken.has(name); number += 1) name = `${stem} (${number})${ending || ""}`;
  taken.add(name);
  return name;
}

// ---- choosing

function add(found) {
  let refused = 0;
  for (const { file, path } of found) {
    const id = `${path}|${file.size}|${file.lastModified}`;
    if (known.has(id)) continue; // chosen twice
    known.add(id);
    const item = { file, id, path: unused(clean(path)), state: "waiting", sent: 0, tries: 0, why: "" };
    if (file.size > page.maxBytes) {
      Object.assign(item, { state: "refused", why: `Too large: ${bytes(file.size)}, and this page takes up to ${bytes(page.maxBytes)} a file.` });
    } else if (new TextEncoder().encode(page.prefix + item.path).length > 1024) {
      Object.assign(item, { state: "refused", why: WORDS.KeyTooLongError });
    }
    refused += item.state === "refused";
    items.push(item);
    draw(item);
  }
  say(found.length ? `${many(found.length, "file")} chosen${refused ? `, ${refused} of them cannot be uploaded` : ""}.` : "There are no files in it.");
  if (running) pump();
  redraw();
}

const chosen = (input) => {
  add([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
  input.value = ""; // so that the same file can be chosen again
};

async function dropped(event) {
  event.preventDefault();
  document.body.classList.remove("over");
  // Everything must be taken before the first await: the event's data is gone after it.
  const pieces = [...event.dataTransfer.items].filter((item) => item.kind === "file").map((item) => {
    const entry = item.webkitGetAsEntry ? item.webkitGetAsEntry() : null;
    if (!entry || entry.isFile) return { file: item.getAsFile() };
    return { entry, handle: item.getAsFileSystemHandle ? item.getAsFileSystemHandle() : null };
  });
  const found = [];
  for (const { file, entry, handle } of pieces) {
    try {
      if (file) found.push({ file, path: file.name });
      else if (handle) await walkHandle(await handle, entry.name, found);
      else await walkEntry(entry, entry.name, found);
    } catch {
      warn(`The folder ${entry.name} could not be read by dropping it. Use “Choose a folder” instead.`);
    }
  }
  add(found);
}

// ---- sending

function pump() {
  let busy = items.filter((item) => item.state === "sending" || item.state === "pausing").length;
  for (const item of items) {
    if (!running || over || busy >= AT_ONCE) break;
    if (item.state === "waiting") { busy += 1; send(item); }
  }
  if (running && !busy) finish();
  redraw();
}

function send(item) {
  Object.assign(item, { state: "sending", sent: 0, why: "", tries: item.tries + 1 });
  const form = new FormData();
  for (const [name, value] of Object.entries(page.fields)) form.append(name, value);
  form.append("key", page.prefix + item.path);
  form.append("Content-Type", /^[\w.+-]+\/[\w.+-]+$/.test(item.file.type) ? item.file.type : "application/octet-stream");
  form.append("file", item.file, "file"); // the last field, by S3's rule
  const request = item.request = new XMLHttpRequest();
  const alive = (patience = STALL) => {
    clearTimeout(item.timer);
    item.timer = setTimeout(() => request.abort(), patience);
  };
  request.upload.onload = () => alive(5 * STALL); // a store may take its time to put a large file away
  request.upload.onprogress = (event) => {
    alive();
    // The form's own fields count too, and come first.
    item.sent = Math.max(0, Math.min(item.file.size, event.loaded - (event.total - item.file.size)));
    draw(item);
  };
  request.onloadend = () => {
    clearTimeout(item.timer);
    if (item.request !== request) return; // cancelled
    if (request.status >= 200 && request.status < 300) settle(item, { stored: true });
    else if (request.status) settle(item, judge(request.status, request.responseText));
    else unreached(item);
  };
  request.open("POST", page.url);
  alive();
  request.send(form);
  draw(item);
}

// A request without an answer: is it the file, the network, or the bucket that doesn't let this page read its answers?
async function unreached(item) {
  const request = item.request;
  let verdict = {
    why: navigator.onLine ? "The store could not be reached, or it does not accept uploads from this page." : "There is no network connection.",
    again: true, silent: true,
  };
  try {
    await item.file.slice(0, 1).arrayBuffer();
  } catch {
    verdict = { why: "The file can no longer be read. Has it changed, or is it a folder? Choose it again." };
  }
  if (item.request === request) settle(item, verdict);
}

function settle(item, verdict) {
  item.request = null;
  if (verdict.stored) {
    Object.assign(item, { state: "stored", sent: item.file.size, why: "" });
  } else if (verdict.again && item.tries < TRIES) {
    const pause = 1000 * 2 ** (item.tries - 1) * (0.5 + Math.random());
    Object.assign(item, { state: "pausing", sent: 0, why: `${verdict.why} Trying again…` });
    item.timer = setTimeout(() => { item.state = "waiting"; pump(); }, pause);
  } else {
    Object.assign(item, { state: verdict.again ? "failed" : "refused", sent: 0, why: verdict.why });
    if (verdict.ended) { over = verdict.why; warn(over); running = false; }
    if (verdict.silent) { $("one").hidden = false; $("file").required = true; }
  }
  draw(item);
  pump();
  if (!running && over) finish();
}

function cancel(item) {
  const { request } = item;
  clearTimeout(item.timer);
  Object.assign(item, { state: "failed", request: null, sent: 0, why: "Cancelled." });
  if (request) request.abort();
  draw(item);
}

function finish() {
  running = false;
  const count = tally();
  say(count.stored && !count.left ? `${many(count.stored, "file")} uploaded.` : `${count.stored} uploaded, ${count.left} not uploaded.`);
  $("done").hidden = !(page.successUrl && count.stored && !count.left);
  redraw();
}

// ---- showing

const say = (text) => { $("status").textContent = text; };
const warn = (text) => { $("notice").textContent = text; };
function build(item) {
  const row = item.row = element("li", "");
  item.bar = Object.assign(element("progress", ""), { max: Math.max(1, item.file.size) });
  item.bar.setAttribute("aria-label", item.path);
  item.what = element("div", "what");
  item.retry = button("Try again", item.path, () => { item.tries = 0; item.state = "waiting"; start(); item.drop.focus(); });
  item.drop = button("Remove", item.path, () => (item.request || item.state === "pausing" ? (cancel(item), pump()) : remove(item)));
  const acts = element("div", "acts");
  acts.append(item.retry, item.drop);
  row.append(element("div", "name", item.path), item.what, item.bar, acts);
  $("list").append(row);
  rows += 1;
}

function draw(item) {
  if (!item.row && (rows < ROWS || item.state === "failed" || item.state === "refused")) build(item);
  if (item.row) {
    const { state } = item, active = state === "sending" || state === "pausing", size = bytes(item.file.size);
    const words = {
      waiting: size, pausing: item.why, stored: `Uploaded, ${size}`, failed: item.why, refused: item.why,
      sending: item.sent < item.file.size ? `${bytes(item.sent)} of ${size}` : `${size} sent, waiting for the store…`,
    };
    item.row.className = state;
    item.what.textContent = words[state];
    item.bar.hidden = !active;
    item.bar.value = item.file.size ? item.sent : 0;
    item.retry.hidden = state !== "failed" || Boolean(over);
    const word = active ? "Cancel" : "Remove";
    if (item.drop.textContent !== word) {
      item.drop.textContent = word;
      item.drop.setAttribute("aria-label", `${word} ${item.path}`);
    }
    if (state === "stored" && item.row.contains(document.activeElement)) $("sum").focus();
    item.drop.hidden = state === "stored";
  }
  redraw();
}

function drop(item) {
  items.splice(items.indexOf(item), 1);
  known.delete(item.id);
  if (item.state !== "stored") taken.delete(item.path); // a later file of that name would replace the stored one
}

function remove(item) {
  const next = item.row.nextElementSibling || item.row.previousElementSibling;
  const focused = item.row.contains(document.activeElement);
  drop(item);
  item.row.remove();
  rows -= 1;
  if (focused) ((next && next.querySelector("button:not([hidden])")) || $("files")).focus();
  redraw();
}

function tally() {
  const count = { stored: 0, waiting: 0, left: 0, bytes: 0, sent: 0, waitingBytes: 0, files: 0 };
  for (const { state, file, sent } of items) {
    if (state === "stored") count.stored += 1; else count.left += 1;
    if (state === "waiting") { count.waiting += 1; count.waitingBytes += file.size; }
    if (state === "refused" || state === "failed") continue;
    count.files += 1; count.bytes += file.size; count.sent += sent;
  }
  return count;
}

function redraw() { // once a frame, however many files move
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const count = tally();
    const focused = document.activeElement;
    $("total").hidden = !items.length;
    $("go").hidden = running || !count.waiting;
    $("go").disabled = Boolean(over);
    $("go").textContent = `Upload ${many(count.waiting, "file")} (${bytes(count.waitingBytes)})`;
    $("stop").hidden = !running;
    $("clear").hidden = running || !count.stored;
    if (focused.hidden) [$("stop"), $("sum")].find((each) => !each.hidden).focus(); // never let the focus fall to the page's top
    $("bar").hidden = !running;
    $("bar").max = Math.max(1, count.bytes);
    $("bar").value = count.sent;
    const failed = items.length - count.files;
    $("sum").textContent = [
      count.stored || running ? `${count.stored} of ${many(count.files, "file")} uploaded, ${bytes(count.sent)} of ${bytes(count.bytes)}` : "",
      failed ? `${many(failed, "file")} ${running || !count.waiting ? "not uploaded" : "will not be uploaded"}` : "",
    ].filter(Boolean).join(" · ");
    $("more").hidden = items.length <= rows;
    $("more").textContent = `and ${many(items.length - rows, "more file")}`;
  });
}

function countdown() {
  const left = Math.floor((expires - Date.now()) / 1000);
  $("left").textContent = left > 0 ? `, for ${span(left)} more` : "";
  // Only a warning: this device's clock may be wrong, and the store's is what counts.
  if (left <= 0 && !over && !$("notice").textContent) warn(`By this device’s clock, this page has expired, and the store will refuse uploads. ${ASK}`);
  if (left > 0) setTimeout(countdown, left < 120 ? 1000 : 30000);
}

function start() {
  running = true;
  say("Uploading.");
  pump();
}

// ---- begin

$("files").onchange = (event) => chosen(event.target);
$("folder").onchange = (event) => chosen(event.target);
$("go").onclick = start;
$("stop").onclick = () => {
  running = false;
  for (const item of items) if (item.request || item.state === "pausing") cancel(item);
  finish();
};
$("clear").onclick = () => {
  for (const item of items.filter(({ state }) => state === "stored")) (item.row ? remove : drop)(item);
  $("files").focus();
  redraw();
};
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", dropped);
addEventListener("beforeunload", (event) => { if (running) event.preventDefault(); });
addEventListener("online", () => {
  for (const item of items) if (item.state === "pausing") { clearTimeout(item.timer); item.state = "waiting"; }
  if (running) pump();
});
if (page.successUrl) $("next").href = page.successUrl;
if (!("webkitdirectory" in $("folder"))) $("folder").parentElement.hidden = true;
if (matchMedia("(pointer: coarse)").matches) $("lead").textContent = "Choose what to upload";
$("one").hidden = true;
$("file").required = false;
$("many").hidden = false;
countdown();
