// Everything about one clip: video, frames, curves over time, its video, copies, nearest latents.

import { curve, timeline } from "./charts.js";
import { bytes, clock, count, counted, duration, getJson, h, shortName, significant, words } from "./dom.js";
import { framePath, isSpan, pixelated, rejectRow, spanWords, videoPath } from "./tiles.js";

const MAX_FRAMES_SHOWN = 12, MAX_ENLARGED = 6, MAX_WIDTH = 460;

// `at` is the frame to begin with; the rest of the address says which list led here.
export async function clipPage(clip_id, { set, about }, { at, ...asked }) {
  const [found, around] = await Promise.all([getJson(`${set}/clip/${clip_id}`), neighboursInList(set, asked)]);
  const clip = found.record, video = player(set, clip, at), viewed = about.sets[set];
  const element = h("div", { class: "clip" },
    steps(set, asked, around),
    h("h2", { class: "clip-name" }, shortName(clip.video_uri)),
    h("div", { class: "beside" }, h("div", { class: "watch", style: { width: `${Math.min(MAX_WIDTH, MAX_ENLARGED * clip.width_px)}px` } }, video.element, video.bar), facts(set, clip)),
    ofVideo(set, clip, found),
    frames(set, clip, video),
    curves(clip, found, video),
    ...viewed.latents.map((name) => latentPart(name, set, clip, video, at)),
    copies(set, found, about),
    h("details", {}, h("summary", {}, "The whole record"), record(clip)));
  return { element, leave: video.stop };
}

// The clips before and after this one in the list that led here.
async function neighboursInList(set, asked) {
  if (!asked.offset) return null;
  const place = Number(asked.offset), first = Math.max(0, place - 1);
  const page = await getJson(`${set}/clips`, { ...asked, offset: first, limit: place - first + 2 });
  return { place, total: page.total, before: place ? page.rows[0] : null, after: page.rows[place - first + 1] };
}

function steps(set, asked, around) {
  const { offset, ...query } = asked;
  const page = Math.floor(Number(offset || 0) / 48) * 48;
  const list = `#/${set}/clips?${new URLSearchParams({ ...query, ...(page ? { offset: page } : {}) })}`;
  const to = (clip, place) => clip && `#/${set}/clip/${clip.clip_id}?${new URLSearchParams({ ...asked, offset: place })}`;
  const link = (title, href, rel) => h("a", { class: href ? "step" : "step off", href, rel }, title);
  return h("nav", { class: "steps" }, h("a", { class: "step", href: list }, "All clips"),
    around && [link("Back", to(around.before, around.place - 1), "prev"), link("Next", to(around.after, around.place + 1), "next"),
      h("span", { class: "muted" }, `${count(around.place + 1)} of ${count(around.total)}`)]);
}

// The video, and what follows its time: `follow` is called with the share of the clip that is shown.
function player(set, clip, at) {
  const followers = [];
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const last = Math.max(1, clip.num_frames - 1);
  const video = h("video", { id: "video", class: pixelated(clip), src: videoPath(set, clip), muted: true, loop: true, playsinline: true, autoplay: !isCalm && !at,
    controls: true, width: clip.width_px, height: clip.height_px });
  const problem = h("p", { class: "note warning", hidden: true }, "This browser cannot play the clip. The frames below are decoded by the server.");
  const number = h("span", { class: "frame-number" });
  const bar = h("div", { class: "player-bar" },
    h("button", { type: "button", onclick: () => step(-1), "aria-label": "One frame back" }, "‹"),
    h("button", { type: "button", onclick: () => step(1), "aria-label": "One frame on" }, "›"), number,
    h("label", {}, "speed ", h("select", { onchange: (event) => { video.playbackRate = Number(event.target.value); } },
      [0.1, 0.25, 0.5, 1, 2].map((rate) => h("option", { value: rate, selected: rate === 1 }, `${rate}×`)))), problem);
  video.addEventListener("error", () => { problem.hidden = false; });
  const frame = () => Math.min(clip.num_frames - 1, Math.floor(video.currentTime * clip.fps + 0.01));
  // Into the middle of a frame, so that rounding shows none of its neighbours.
  const seek = (share) => { video.pause(); video.currentTime = (Math.round(share * last) + 0.5) / clip.fps; };
  const step = (by) => seek((frame() + by) / last);
  if (at) video.addEventListener("loadedmetadata", () => seek(Number(at) / last), { once: true });
  let request = 0;
  const tell = () => {
    number.textContent = `frame ${frame()} of ${clip.num_frames}`;
    followers.forEach((follow) => follow(Math.min(1, (video.currentTime * clip.fps) / clip.num_frames), frame()));
    request = requestAnimationFrame(tell);
  };
  request = requestAnimationFrame(tell);
  return { element: video, bar, seek, seekFrame: (n) => seek(n / last), frame, follow: (call) => followers.push(call),
    stop: () => { cancelAnimationFrame(request); video.pause(); video.removeAttribute("src"); video.load(); } };
}

function facts(set, clip) {
  const rows = {
    Split: clip.split === "val" ? "held out (val)" : clip.split,
    Span: `${clock(clip.start_s)} to ${clock(clip.end_s)} of the video, ${duration(clip.end_s - clip.start_s)}`,
    Frames: `${count(clip.num_frames)} at ${significant(clip.fps)} frames/s, ${clip.width_px} × ${clip.height_px} px, ${bytes(clip.num_bytes)}`,
    Source: `${clip.source_width_px} × ${clip.source_height_px} px, ${significant(clip.source_fps)} frames/s, ${clip.source_codec}`,
    Motion: `${significant(clip.motion)} (median change of a pixel in a frame, of 1)`,
    Video: clip.video_uri,
    Shard: clip.shard,
    "Clip id": clip.clip_id,
  };
  return h("dl", { class: "facts" }, Object.entries(rows).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function part(title, ...inside) {
  return h("section", { class: "part" }, h("h3", {}, title), ...inside);
}

function ofVideo(set, clip, { spans, rejects, num_spans }) {
  const timed = rejects.filter(isSpan);
  const end_s = Math.max(...[...spans, ...timed].map((span) => span.end_s));
  const drawn = [
    ...spans.map((span) => ({ ...span, kind: span.clip_id === clip.clip_id ? "this" : "clip", href: `#/${set}/clip/${span.clip_id}`, title: `clip, ${spanWords(span)}` })),
    ...timed.map((span) => ({ ...span, kind: "rejected", title: `${words(span.reason)}, ${spanWords(span)}${span.detail && `: ${span.detail}`}` }))];
  const shown = spans.length + rejects.length;
  const partOf = shown < num_spans ? `The first ${count(shown)} of ${count(num_spans)} spans. ` : "";
  const reasons = [...new Set(timed.map((span) => words(span.reason)))].join(", ");
  return part("Its video",
    timeline(drawn, end_s),
    h("p", { class: "caption" }, partOf, `${counted(spans.length, "clip")} and ${counted(timed.length, "rejected span")} in ${duration(end_s)}`, reasons && `: ${reasons}`, ". Strong colour: this clip. Hatched: left out."));
}

function frames(set, clip, video) {
  const number = Math.min(MAX_FRAMES_SHOWN, clip.num_frames);
  const shown = Array.from({ length: number }, (_, i) => Math.round((i * (clip.num_frames - 1)) / Math.max(1, number - 1)));
  return part("Frames", h("div", { class: "frames" }, shown.map((frame) => h("button", { type: "button", onclick: () => video.seekFrame(frame) },
    h("img", { class: pixelated(clip), src: framePath(set, clip, frame), alt: `frame ${frame}`, loading: "lazy", width: clip.width_px, height: clip.height_px }),
    h("span", {}, `${frame} · ${clock(frame / clip.fps)}`)))));
}

function curves(clip, { labels, problem }, video) {
  const motion = (clip.pair_motion ?? []).map((value) => value / 10000);
  return [
    motion.length > 0 && part("Motion", curve(motion, { title: "mean change of a pixel to the next frame", player: video })),
    problem && h("p", { class: "note warning" }, problem),
    ...labels.map((label) => seriesPart(label, video)),
  ];
}

// Dimensions that never change share one line: robots have many joints that stand still.
function seriesPart({ name, shape, dims }, video) {
  const title = words(name), isMoving = (values) => values.some((value) => value !== values[0]);
  if (!dims.length) return part(title, h("p", { class: "caption" }, `Stored as an array of ${shape.join(" × ")}.`));
  const numbered = dims.map((values, i) => ({ values, title: shape.length > 1 ? String(i) : title }));
  const constant = numbered.filter(({ values }) => !isMoving(values)), rest = (shape[1] ?? 1) - dims.length;
  return part(title,
    h("div", { class: "small-curves" }, numbered.filter(({ values }) => isMoving(values)).map((each) => curve(each.values, { title: each.title, player: video, isSmall: true }))),
    constant.length > 0 && h("p", { class: "caption" }, `${constant.length === dims.length ? "Constant" : `${constant.length} of ${dims.length} constant`}: `,
      constant.map((each) => `${each.title} at ${significant(each.values[0])}`).join(", "), "."),
    rest > 0 && h("p", { class: "caption" }, `${counted(rest, "dimension")} more are stored.`));
}

function latentPart(name, set, clip, video, at) {
  const list = h("div", { class: "neighbours" }), caption = h("p", { class: "caption" });
  const more = h("details", { hidden: true });
  let drawnCurves = false, newest = 0;
  async function search(frame) {
    const number = ++newest;
    list.classList.add("waiting");
    try {
      const found = await getJson(`${set}/neighbours/${clip.clip_id}`, { latents: name, frame });
      if (number !== newest) return; // a later search must not be overwritten
      list.replaceChildren(pairTile(set, clip, found.frame, "this pair"), ...found.neighbours.map((near) => pairTile(set, near.clip, near.frame, `distance ${significant(near.distance)}`)));
      caption.textContent = `Frames ${found.frame} and ${found.frame + 1}, and the pairs of other videos whose latent actions are nearest, of all ${count(found.num_pairs)}.`;
      if (!drawnCurves) more.append(h("summary", {}, "z over time"), h("div", { class: "small-curves" }, found.latents.dims.map((values, i) => curve(values, { title: `z ${i}`, player: video, isSmall: true }))));
      drawnCurves = true;
      more.hidden = false;
    } catch (error) {
      if (number !== newest) return;
      caption.textContent = error.message;
    }
    list.classList.remove("waiting");
  }
  search(at);
  return part(`Nearest latent actions (${name})`, list, caption,
    h("button", { type: "button", onclick: () => search(video.frame()) }, "Search from the frame that is shown"), more);
}

function pairTile(set, clip, frame, title) {
  const image = (n) => h("img", { class: pixelated(clip), src: framePath(set, clip, n), alt: `frame ${n}`, width: clip.width_px, height: clip.height_px });
  return h("a", { class: "pair-tile", href: `#/${set}/clip/${clip.clip_id}?at=${frame}`, title: clip.video_uri },
    h("div", { class: "two" }, image(frame), image(Math.min(frame + 1, clip.num_frames - 1))),
    h("span", { class: "name" }, shortName(clip.video_uri)), h("span", { class: "facts" }, title));
}

function copies(set, { duplicates, num_duplicates }, about) {
  if (!duplicates.length) return null;
  return part("Near-duplicates of it that were dropped", h("div", { class: "list rejects" }, duplicates.map((row) => rejectRow(set, { ...row, detail: "" }, about.reasons[row.reason]))),
    num_duplicates > duplicates.length && h("p", { class: "caption" }, `${count(duplicates.length)} of ${count(num_duplicates)}.`));
}

function record(clip) {
  return h("table", {}, h("tbody", {}, Object.entries(clip).map(([name, value]) =>
    h("tr", {}, h("th", {}, name), h("td", {}, Array.isArray(value) ? value.join(" ") : String(value))))));
}
