"use strict";
// What the upload form says, and how it reads what it is given. links/pages.py puts this and upload.js into one script.
const $ = (id) => document.getElementById(id);
const page = JSON.parse($("page").textContent);

const many = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function bytes(count) {
  if (count < 1000) return many(count, "byte");
  let unit = -1;
  do { count /= 1000; unit += 1; } while (count >= 999.5 && unit < 3);
  return `${count < 99.95 ? Number(count.toFixed(1)) : Math.round(count)} ${["kB", "MB", "GB", "TB"][unit]}`;
}

function span(seconds) {
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const [word, length] = units.find(([, size]) => seconds >= size) || units[3];
  return many(Math.floor(seconds / length), word);
}

const ASK = "Ask whoever gave you this page for a new one.";
const MEANINGS = { // what the store's answers mean to the person in front of the page
  expired: { why: `This page has expired. ${ASK}`, ended: true },
  credentials: { why: `The store no longer accepts this page. ${ASK}`, ended: true },
  "no bucket": { why: `The place that this page uploads to is gone. ${ASK}`, ended: true },
  unsupported: { why: "This store does not take uploads from forms." },
  damaged: { why: "The file was damaged on its way to the store.", again: true },
};
const WORDS = { // codes that mean no more than that the store refuses
  EntityTooLarge: `The store refused it: it is larger than ${bytes(page.maxBytes)}.`,
  EntityTooSmall: "The store refused it: it is smaller than this page allows.",
  KeyTooLongError: "Its name is too long for the store.",
  QuotaExceeded: "The store is full.",
  XMinioStorageFull: "The store is full.",
};

// What an answer means, by the rows of provisioner/s3/answers.py.
function meaning(status, code, message) {
  if ((code + message).includes(page.expired)) return "expired";
  const row = page.answers.find(([, pattern]) => RegExp(pattern).test(`${code} ${status}`));
  return row ? row[0] : "refused";
}

// Read the store's answer: {why, again: worth another try, ended: so would be every other file}.
function judge(status, body) {
  const xml = new DOMParser().parseFromString(body, "application/xml");
  const text = (name) => (xml.querySelector(name) || {}).textContent || "";
  const code = text("Code"), message = text("Message"), found = meaning(status, code, message);
  if (found === "busy") return { why: `The store is busy (${code || status}).`, again: true };
  if (found in MEANINGS) return MEANINGS[found];
  if (code in WORDS) return { why: WORDS[code] };
  if (/policy/i.test(message)) return { why: "The store refused it: this page does not allow this file (its size or its name)." };
  if (code === "AccessDenied" || status === 403) return { why: `The store refused it${message ? `: ${message}` : "."}` };
  return { why: code ? `The store refused it: ${message || code} (${code})` : `The store answered with status ${status}.` };
}

// Characters that stores rewrite or expand are percent-encoded: control characters, \, and the $ of ${filename}.
const clean = (path) => path.replace(/[\x00-\x1f\x7f\\]|\$(?=\{)/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);

// ---- folders

// Two ways to read a dropped folder: handles, which Chromium has and which work on a page opened from a file, too, and
// entries, which every browser has.
async function walkHandle(folder, path, into) {
  for await (const each of folder.values()) {
    const name = `${path}/${each.name}`;
    if (each.kind === "directory") await walkHandle(each, name, into);
    else into.push({ file: await each.getFile(), path: name });
  }
}

async function walkEntry(folder, path, into) {
  const reader = folder.createReader();
  for (;;) { // a reader gives at most 100 entries at a time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return;
    for (const each of some) {
      const name = `${path}/${each.name}`;
      if (each.isDirectory) await walkEntry(each, name, into);
      else into.push({ file: await new Promise((done, failed) => each.file(done, failed)), path: name });
    }
  }
}

// ---- elements

const element = (name, className, text) => Object.assign(document.createElement(name), { className, textContent: text || "" });

function button(text, label, act) {
  const made = Object.assign(element("button", "", text), { type: "button", onclick: act });
  made.setAttribute("aria-label", `${text} ${label}`);
  return made;
}

