// Reads the address (#/SET/PAGE?filters) and shows that page.

import { clipPage } from "./clip.js";
import { count, counted, duration, getJson, h, significant } from "./dom.js";
import { listing } from "./listing.js";

const main = document.getElementById("main"), header = document.getElementById("top");
let about = null, shown = null, turn = 0;
let left = null; // the list that was left for a clip, with the place where it was scrolled to
history.scrollRestoration = "manual";
const facets = {};

function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [set = "0", page = "", id = ""] = path.split("/");
  const number = Math.min(about.sets.length - 1, Number(set) || 0);
  const first = about.sets[number].num_clips ? "clips" : "rejects";
  return { set: number, page: page || first, id, asked: Object.fromEntries(new URLSearchParams(query)) };
}

function lead({ spec, num_clips, num_rejects }) {
  if (!spec) return `${counted(num_rejects, "reject")} and no clip.`;
  const hours = duration(spec.num_hours * 3600);
  const rate = spec.fps ? `${significant(spec.fps)} frames/s` : "the rates of their videos";
  const held = spec.num_clips.val ? `, ${count(spec.num_clips.val)} of them held out` : "";
  return `${counted(num_clips, "clip")}${held}: ${hours} of ${spec.width_px} × ${spec.height_px} px at ${rate}. ${num_rejects ? `${counted(num_rejects, "span")} left out.` : "Nothing was left out."}`;
}

function drawHeader({ set, page }) {
  const viewed = about.sets[set];
  const tab = (name, title, isOn = page === name) => h("a", { href: `#/${set}/${name}`, class: isOn ? "on" : "", "aria-current": isOn && "page" }, title);
  const hasPairs = "near_duplicate" in (facets[set]?.reasons ?? {});
  header.replaceChildren(
    h("p", { class: "eyebrow" }, "lafp view"),
    h("h1", {}, about.sets.length > 1 ? `${about.title} / ${viewed.name}` : about.title),
    h("p", { class: "lead" }, lead(viewed)),
    h("nav", { class: "tabs" },
      viewed.num_clips > 0 && tab("clips", "Clips", page === "clips" || page === "clip"),
      viewed.num_rejects > 0 && tab("rejects", "Rejects"),
      hasPairs && tab("pairs", "Near-duplicates"),
      about.sets.length > 1 && h("select", { class: "sets", "aria-label": "Shard set", onchange: (event) => { location.hash = `/${event.target.value}/`; } },
        about.sets.map((each, number) => h("option", { value: number, selected: number === set }, each.name)))));
  document.title = `${viewed.name} · lafp view`;
}

async function show() {
  const now = place(), mine = ++turn, key = `${now.set}/${now.page}/${now.id}`;
  if (shown?.key === key && shown.update) {
    shown.update(now.asked);
    return;
  }
  if (left?.key === key) {
    await goBack(now);
    return;
  }
  facets[now.set] ??= await getJson(`${now.set}/facets`);
  const context = { set: now.set, about, facets: facets[now.set] };
  const made = now.page === "clip" ? await clipPage(now.id, context, now.asked)
    : await listing(["rejects", "pairs"].includes(now.page) ? now.page : "clips", context, now.asked);
  if (mine !== turn) {
    made.leave?.();
    return;
  }
  if (shown?.update) left = { ...shown, scrolled: scrollY };
  shown?.leave?.();
  shown = { key, ...made };
  drawHeader(now);
  main.replaceChildren(made.element);
  if (now.page === "clip") scrollTo(0, 0);
}

async function goBack(now) {
  const { scrolled, ...list } = left;
  shown?.leave?.();
  shown = list;
  left = null;
  drawHeader(now);
  main.replaceChildren(list.element);
  await list.update(now.asked);
  scrollTo(0, scrolled);
}

const tryToShow = () => show().catch((error) => {
  shown?.leave?.();
  shown = null;
  main.replaceChildren(h("p", { class: "note warning" }, error.message));
});

addEventListener("hashchange", tryToShow);
addEventListener("keydown", (event) => {
  if (["INPUT", "SELECT", "VIDEO"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  if (rel) document.querySelector(`a[rel=${rel}][href]`)?.click();
});

getJson("sets").then((found) => { about = found; return tryToShow(); }, (error) => main.replaceChildren(h("p", { class: "note warning" }, error.message)));
