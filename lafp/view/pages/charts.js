// Draws curves, histograms and time lines as SVG. They are stretched to the width that there is.

import { h, svg, significant } from "./dom.js";

const WIDTH = 600;

function path(values, low, high, height) {
  const step = WIDTH / Math.max(1, values.length - 1), span = high - low || 1;
  const y = (value) => (height - 2 - ((value - low) / span) * (height - 4)).toFixed(1);
  return values.map((value, i) => `${i ? "L" : "M"}${(i * step).toFixed(1)} ${y(value)}`).join("");
}

const stretched = (height, props, ...children) =>
  svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", ...props }, ...children);

export function sparkline(values, high) {
  const line = values.length > 1 ? path(values, 0, Math.max(high, ...values), 24) : "";
  return stretched(24, { class: "spark", "aria-hidden": "true" },
    svg("path", { class: "area", d: line && `${line}L${WIDTH} 24L0 24Z` }),
    svg("path", { class: "line", d: line }));
}

// A curve over the frames of a clip. `player` gives and takes the time as a share of the clip.
export function curve(values, { title, player, isSmall = false, format = significant }) {
  const low = Math.min(...values), high = Math.max(...values), height = isSmall ? 34 : 90;
  const from = low >= 0 && !isSmall ? 0 : low;
  const head = svg("line", { class: "head", y1: 0, y2: height });
  const value = h("span", { class: "now" });
  const box = h("div", { class: isSmall ? "curve small" : "curve" },
    h("div", { class: "curve-title" }, h("span", {}, title), value,
      h("span", { class: "range" }, low === high ? format(low) : `${format(low)} to ${format(high)}`)),
    stretched(height, { role: "img", "aria-label": title },
      from < 0 && high > 0 && svg("path", { class: "zero", d: path([0, 0], from, high, height) }),
      svg("path", { class: "line", d: path(values.length > 1 ? values : [...values, ...values], from, high, height) }), head));
  player.follow((share) => {
    const x = share * WIDTH;
    head.setAttribute("x1", x);
    head.setAttribute("x2", x);
    value.textContent = format(values[Math.min(values.length - 1, Math.round(share * (values.length - 1)))]);
  });
  const seek = (event) => {
    const area = box.lastChild.getBoundingClientRect();
    player.seek(Math.min(1, Math.max(0, (event.clientX - area.left) / area.width)));
  };
  box.lastChild.addEventListener("pointerdown", seek);
  box.lastChild.addEventListener("pointermove", (event) => event.buttons && seek(event));
  return box;
}

export function histogram({ low, high, counts }) {
  const top = Math.max(1, ...counts), width = WIDTH / Math.max(1, counts.length);
  return stretched(40, { class: "histogram", "aria-hidden": "true" },
    counts.map((number, i) => svg("rect", {
      // A square root, because a few bins hold nearly all.
      x: i * width + 1, width: Math.max(1, width - 2), y: 40 - 38 * Math.sqrt(number / top), height: 38 * Math.sqrt(number / top),
      "data-low": low + (i * (high - low)) / counts.length,
    })));
}

// Spans of one video: [{start_s, end_s, kind, title, href}].
export function timeline(spans, end_s) {
  return h("div", { class: "timeline" }, spans.map((span) => h(span.href ? "a" : "span", {
    class: `span ${span.kind}`, title: span.title, href: span.href,
    style: { left: `${(100 * span.start_s) / end_s}%`, width: `${(100 * (span.end_s - span.start_s)) / end_s}%` },
  })));
}
