// A list of clips, rejects or pairs: filters beside it, pages below it. The address holds the choice.

import { histogram } from "./charts.js";
import { count, counted, getJson, h, significant, words } from "./dom.js";
import { clipTile, pairRow, rejectRow } from "./tiles.js";

export const PAGE_ROWS = 48;
const CLIP_ORDERS = { "": "as stored", random: "shuffled", motion: "motion", length: "length", num_bytes: "size in bytes", source_width_px: "width of the source", source_fps: "rate of the source" };
const REJECT_ORDERS = { "": "as stored", random: "shuffled", length: "length", start_s: "place in the video" };

const KINDS = {
  clips: { api: "clips", noun: "clip", orders: CLIP_ORDERS, numbers: { length: "Length, s", motion: "Motion" }, fixed: {} },
  rejects: { api: "rejects", noun: "reject", orders: REJECT_ORDERS, numbers: { length: "Length, s" }, fixed: {} },
  pairs: { api: "rejects", noun: "pair", orders: REJECT_ORDERS, numbers: {}, fixed: { reason: "near_duplicate" } },
};

export async function listing(kind, context, asked) {
  const { set, facets, about } = context, options = KINDS[kind];
  const list = h("div", { class: `list ${kind}` }), total = h("p", { class: "total", "aria-live": "polite" });
  const pager = h("nav", { class: "pager", "aria-label": "Pages" });
  const asText = (choice) => JSON.stringify(Object.entries(choice).sort());
  let running = null, current = asked, shown = "";

  const go = (changes) => {
    const next = { ...current, offset: "", ...changes };
    const parts = Object.entries(next).filter(([, value]) => value !== "" && value !== undefined);
    location.hash = `/${set}/${kind}?${new URLSearchParams(parts)}`;
  };
  const form = filters(kind, options, facets, about, go);

  async function show(next) {
    if (asText(next) === shown) return;
    current = next;
    form.write(next);
    running?.abort();
    running = new AbortController();
    list.classList.add("waiting");
    try {
      const page = await getJson(`${set}/${options.api}`, { limit: PAGE_ROWS, ...next, ...options.fixed }, running.signal);
      draw(page, Number(next.offset || 0));
      shown = asText(next);
    } catch (error) {
      if (error.name === "AbortError") return;
      total.textContent = "";
      list.replaceChildren(h("p", { class: "note warning" }, error.message));
      pager.replaceChildren();
    }
    list.classList.remove("waiting");
  }

  function draw(page, offset) {
    const meaning = kind === "rejects" && current.reason ? `: ${about.reasons[current.reason] ?? ""}` : "";
    total.textContent = page.total ? counted(page.total, options.noun) + meaning : "";
    const empty = h("p", { class: "muted" }, `No ${options.noun} is like that.`);
    const items = page.rows.map((row, i) => {
      if (kind === "pairs") return pairRow(set, row);
      if (kind === "rejects") return rejectRow(set, row, about.reasons[row.reason]);
      const place = new URLSearchParams({ ...current, offset: offset + i });
      return clipTile(set, row, `#/${set}/clip/${row.clip_id}?${place}`);
    });
    list.replaceChildren(...(items.length ? items : [empty]));
    const last = Math.ceil(page.total / PAGE_ROWS), now = Math.floor(offset / PAGE_ROWS) + 1;
    const step = (title, to, isOn) => h("button", { type: "button", disabled: !isOn, onclick: () => { go({ offset: (to - 1) * PAGE_ROWS || "" }); scrollTo(0, 0); } }, title);
    pager.replaceChildren(...(last > 1 ? [
      step("First", 1, now > 1), step("Back", now - 1, now > 1),
      h("span", { class: "muted" }, `page ${count(now)} of ${count(last)}`),
      step("Next", now + 1, now < last), step("Last", last, now < last)] : []));
  }

  await show(asked);
  return { element: h("div", { class: "with-filters" }, form.element, h("section", {}, total, list, pager)), update: show };
}

function filters(kind, options, facets, about, go) {
  const controls = {};
  const field = (title, ...inside) => h("label", { class: "field" }, h("span", {}, title), ...inside);
  let timer = 0, pending = {};
  const soon = (changes) => {
    clearTimeout(timer);
    pending = { ...pending, ...changes };
    timer = setTimeout(() => {
      const typed = pending;
      pending = {};
      go(typed);
    }, 250);
  };
  const control = (name, element, on = "change") => {
    controls[name] = element;
    element.addEventListener(on, () => (on === "input" ? soon : go)({ [name]: element.value }));
    return element;
  };
  const choice = (name, title, values) => field(title, control(name, h("select", { name }, h("option", { value: "" }, "any"),
    Object.entries(values).map(([value, label]) => h("option", { value }, label)))));

  const parts = [field("Search", control("search", h("input", { type: "search", name: "search", placeholder: kind === "clips" ? "file, id, episode …" : "file, detail …" }), "input"))];
  if (kind === "rejects") parts.push(reasonBars(facets.reasons, about.reasons, go, controls));
  if (kind === "clips") {
    const { split = {}, source = {}, has_labels = {} } = facets.clips;
    const labelled = (values, name = (value) => value) => Object.fromEntries(Object.entries(values).map(([value, { spans }]) => [value, `${name(value)} (${count(spans)})`]));
    parts.push(choice("split", "Split", labelled(split)));
    if (Object.keys(source).length > 1) parts.push(choice("source", "Source", labelled(source)));
    if (Object.keys(has_labels).length > 1) parts.push(choice("has_labels", "Labels", labelled(has_labels, (value) => (value === "true" ? "with" : "without"))));
  }
  for (const [name, title] of Object.entries(options.numbers)) {
    const shape = facets.histograms[options.api][name];
    if (!shape?.counts.length) continue;
    const number = (edge, placeholder) => control(`${edge}_${name}`, h("input", { type: "number", step: "any", min: 0, placeholder, "aria-label": `${title}, ${edge}` }), "input");
    const drawn = histogram(shape);
    drawn.addEventListener("click", (event) => event.target.dataset.low && go({ [`min_${name}`]: significant(Number(event.target.dataset.low)) }));
    parts.push(h("div", { class: "field" }, h("span", {}, title), drawn,
      h("div", { class: "between" }, number("min", significant(shape.low)), h("span", {}, "to"), number("max", significant(shape.high)))));
  }
  parts.push(field("Order", h("div", { class: "between" },
    control("sort", h("select", {}, Object.entries(options.orders).map(([value, title]) => h("option", { value }, title)))),
    control("order", h("select", { "aria-label": "Direction" }, h("option", { value: "" }, "up"), h("option", { value: "desc" }, "down"))))));
  parts.push(h("button", { type: "button", class: "clear", onclick: () => go(Object.fromEntries([...Object.keys(controls), "reason"].map((name) => [name, ""]))) }, "Clear"));

  const write = (asked) => {
    for (const [name, element] of Object.entries(controls)) {
      if (element.write) element.write(asked[name] ?? "");
      else if (document.activeElement !== element) element.value = asked[name] ?? "";
    }
  };
  const element = h("details", { class: "filters" }, h("summary", {}, "Search and filters"), h("form", { onsubmit: (event) => event.preventDefault() }, parts));
  element.open = matchMedia("(min-width: 761px)").matches;
  return { element, write };
}

// Each reason as a bar that filters by it.
function reasonBars(totals, meanings, go, controls) {
  const top = Math.max(1, ...Object.values(totals).map(({ spans }) => spans));
  const bars = Object.entries(totals).map(([reason, { spans }]) => h("button", { type: "button", class: "bar", title: meanings[reason] ?? "", "data-reason": reason,
    onclick: (event) => go({ reason: event.currentTarget.classList.contains("on") ? "" : reason }) },
    h("span", {}, words(reason)), h("span", { class: "number" }, count(spans)), h("i", { style: { width: `${(100 * spans) / top}%` } })));
  controls.reason = { write: (reason) => bars.forEach((bar) => bar.classList.toggle("on", bar.dataset.reason === reason)) };
  return h("div", { class: "field bars" }, h("span", {}, "Reason"), bars);
}
