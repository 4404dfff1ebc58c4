// Makes elements and words. Text always becomes text nodes, so that no name of a video is ever HTML.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (["value", "muted", "checked"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export async function getJson(path, parameters = {}, signal = undefined) {
  const asked = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined));
  let answer;
  try {
    answer = await fetch(`api/${path}?${asked}`, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `lafp view` still running?");
  }
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

export const count = (number) => number.toLocaleString("en");
export const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
export const words = (name) => name.replaceAll("_", " ");

export function significant(number) {
  if (!number) return number === 0 ? "0" : "–";
  const decimals = Math.min(8, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(number)))));
  return String(Number(number.toFixed(decimals)));
}

export function duration(seconds) {
  if (seconds < 60) return `${significant(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${count(Math.round(seconds / 360) / 10)} h`;
}

export function clock(seconds) {
  const whole = Math.floor(seconds / 60), rest = (seconds - 60 * whole).toFixed(1);
  return whole ? `${whole}:${rest.padStart(4, "0")}` : `${rest} s`;
}

export function bytes(number) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  const power = number ? Math.min(4, Math.floor(Math.log10(number) / 3)) : 0;
  return `${significant(number / 1000 ** power)} ${units[power]}`;
}

// The end of a path tells videos apart. The whole of it is in the title.
export const fileName = (uri) => uri.split("/").pop() || uri;
export const shortName = (uri) => uri.split("/").slice(-2).join("/");
