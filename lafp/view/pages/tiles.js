// Shows clips and rejects in listings: a picture that becomes a video.

import { sparkline } from "./charts.js";
import { clock, duration, fileName, h, shortName, words } from "./dom.js";

export const framePath = (set, clip, frame) => `media/${set}/frame/${encodeURIComponent(clip.shard)}/${clip.clip_id}/${frame}.jpg`;
export const videoPath = (set, clip) => `media/${set}/clip/${encodeURIComponent(clip.shard)}/${clip.clip_id}.mp4`;
export const middle = (clip) => Math.floor(clip.num_frames / 2);

// Small pictures are shown in blocks, as the models see them.
export const pixelated = (clip) => (clip.width_px <= 160 ? "pixelated" : "");

export function clipPicture(set, clip) {
  const picture = h("img", { class: pixelated(clip), src: framePath(set, clip, middle(clip)), alt: "", loading: "lazy",
    width: clip.width_px, height: clip.height_px });
  const box = h("div", { class: "picture" }, picture);
  picture.addEventListener("error", () => picture.replaceWith(h("span", { class: "none" }, "damaged or gone")));
  let video = null;
  const stop = () => {
    video?.remove();
    video = null;
  };
  const play = () => {
    stop();
    video = h("video", { class: pixelated(clip), src: videoPath(set, clip), muted: true, loop: true, playsinline: true });
    box.append(video);
    return video.play().catch(() => {});
  };
  return { box, play, stop };
}

export function clipTile(set, clip, href) {
  const { box, play, stop } = clipPicture(set, clip);
  const motion = clip.pair_motion ?? [];
  return h("a", { class: "tile", href, title: clip.video_uri, onmouseenter: play, onmouseleave: stop, onfocus: play, onblur: stop },
    box,
    motion.length > 1 && sparkline(motion, 1000),
    h("span", { class: "name" }, fileName(clip.video_uri)),
    h("span", { class: "facts" }, `${clock(clip.start_s)} · ${duration(clip.end_s - clip.start_s)}`,
      clip.split === "val" && h("span", { class: "tag" }, "val"),
      clip.has_labels && h("span", { class: "tag" }, "labels")));
}

// Pictures of sources take the server a while. A browser opens six connections, and clips need some.
const MAX_WAITING = 4;
const queue = [];
let waiting = 0;

function loadInTurn(picture, src) {
  queue.push([picture, src]);
  setTimeout(loadNext);
}

function loadNext() {
  while (waiting < MAX_WAITING && queue.length) {
    const [picture, src] = queue.shift();
    if (!picture.isConnected) continue;
    const done = () => {
      waiting -= 1;
      loadNext();
    };
    waiting += 1;
    picture.addEventListener("load", done);
    picture.addEventListener("error", done);
    picture.src = src;
  }
}

export const isSpan = (reject) => reject.end_s > reject.start_s;
export const spanWords = (reject) => (isSpan(reject) ? `${clock(reject.start_s)} to ${clock(reject.end_s)}` : "length unknown");

// The source of a reject, or why it is not shown.
export function rejectPicture(set, reject) {
  const box = h("div", { class: "picture source" });
  const none = (text) => box.replaceChildren(h("span", { class: "none" }, text));
  if (!isSpan(reject)) {
    none("no picture");
    return { box, play: null };
  }
  const base = `media/${set}/reject/${reject.row}`;
  const picture = h("img", { alt: "", width: 160, height: 120 });
  picture.addEventListener("error", () => picture.replaceWith(h("span", { class: "none" }, "no picture")));
  loadInTurn(picture, `${base}.jpg`);
  const play = () => {
    const span = `#t=${reject.start_s.toFixed(3)},${reject.end_s.toFixed(3)}`;
    const video = h("video", { src: `${base}/video${span}`, controls: true, muted: true, playsinline: true });
    video.addEventListener("error", () => none("this browser cannot play it"));
    box.replaceChildren(video);
    return video.play().catch(() => {});
  };
  box.append(picture, h("button", { class: "play", type: "button", "aria-label": "Play the source from here", onclick: play }, "▶"));
  return { box, play };
}

export function rejectRow(set, reject, meaning) {
  const kept = reject.original;
  return h("article", { class: "reject" },
    rejectPicture(set, reject).box,
    h("div", { class: "text" },
      h("p", { class: "reason", title: meaning }, words(reject.reason)),
      h("p", { class: "name", title: reject.video_uri }, shortName(reject.video_uri)),
      h("p", { class: "facts" }, spanWords(reject)),
      kept ? h("p", { class: "detail" }, "kept instead: ", h("a", { href: `#/${set}/clip/${kept.clip_id}` }, `${fileName(kept.video_uri)}, ${spanWords(kept)}`))
        : reject.detail && h("p", { class: "detail", title: reject.detail }, reject.detail)));
}

export function pairRow(set, reject) {
  const dropped = rejectPicture(set, reject), clip = reject.original;
  const kept = clip ? clipPicture(set, clip) : null;
  const play = () => [dropped, kept].forEach((side) => side?.play?.());
  const side = (title, picture, name, uri, facts, href) => h("div", { class: "side" },
    h("p", { class: "eyebrow" }, title), picture,
    h("p", { class: "name", title: uri }, href ? h("a", { href }, name) : name), h("p", { class: "facts" }, facts));
  return h("article", { class: "pair" },
    side("dropped", dropped.box, shortName(reject.video_uri), reject.video_uri, spanWords(reject)),
    clip
      ? side("kept", kept.box, shortName(clip.video_uri), clip.video_uri, spanWords(clip), `#/${set}/clip/${clip.clip_id}`)
      : side("kept", h("div", { class: "picture" }, h("span", { class: "none" }, "not in this set")), reject.detail, reject.detail, ""),
    h("button", { class: "both", type: "button", onclick: play }, "Play both"));
}
