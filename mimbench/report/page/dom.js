// Elements. All text goes in as text, never as HTML: a label may say anything.
"use strict";

/** make("button", {type: "button", onclick: f}, "text", child, ...): handlers as properties, the rest as attributes. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element[name] = value;
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== ""));
  return element;
}

function makeTable(headings, lines, label) {
  const head = make("tr", {}, ...headings.map(text => make("th", { scope: "col" }, text)));
  const body = lines.map(([first, ...rest]) =>
    make("tr", {}, make("th", { scope: "row" }, first), ...rest.map(text => make("td", {}, text))));
  const table = make("table", { class: "dense" }, make("thead", {}, head), make("tbody", {}, ...body));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}

function section(title, ...children) {
  return make("section", {}, make("h3", {}, title), ...children);
}

/** One button per form. `texts`: form -> function that gives the text. */
function copyButtons(texts) {
  const said = make("span", { role: "status" });
  const buttons = Object.entries(texts).map(([form, text]) =>
    make("button", { type: "button", onclick: () => copy(text(), form, said) }, form));
  return make("p", { class: "copy" }, "Copy as ", ...buttons, said);
}

/** Pages opened from a file may have no clipboard: then the text is shown, selected. */
async function copy(text, form, said) {
  said.replaceChildren();
  try {
    await navigator.clipboard.writeText(text);
    said.append(`${form} copied`);
  } catch {
    const area = make("textarea", { rows: "6", readonly: "", "aria-label": `${form}, to copy` });
    area.value = text;
    said.append(area);
    area.select();
  }
}

const SVG = "http://www.w3.org/2000/svg";
function makeSvg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Lines over one pair of axes. `series`: [{name, color, x, y}]. */
function lineChart(series, xLabel, yLabel) {
  const [width, height, left, bottom] = [340, 190, 48, 34];
  const range = values => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return low === high ? [low - 1, high + 1] : [low, high];
  };
  const [x0, x1] = range(series.flatMap(line => line.x));
  const [y0, y1] = range(series.flatMap(line => line.y));
  const toX = x => left + ((x - x0) / (x1 - x0)) * (width - left - 8);
  const toY = y => height - bottom - ((y - y0) / (y1 - y0)) * (height - bottom - 10);
  const text = (x, y, anchor, words) => makeSvg("text", { x, y, "text-anchor": anchor }, words);
  const paths = series.map(({ color, x, y }) =>
    makeSvg("polyline", { points: x.map((value, k) => `${toX(value).toFixed(1)},${toY(y[k]).toFixed(1)}`).join(" "), stroke: color }));
  return makeSvg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "chart",
    "aria-label": `${yLabel} over ${xLabel}` },
    makeSvg("path", { d: `M${left} 6V${height - bottom}H${width - 4}`, class: "axis" }),
    text(left - 6, toY(y0), "end", fourDigits(y0)), text(left - 6, toY(y1) + 8, "end", fourDigits(y1)),
    text(left, height - 18, "start", fourDigits(x0)), text(width - 6, height - 18, "end", fourDigits(x1)),
    text((left + width) / 2, height - 4, "middle", `${yLabel} over ${xLabel}`), ...paths);
}
