// Numbers as text, rounded here and nowhere before, and a table as Markdown, LaTeX or CSV.
"use strict";

const DASH = "–";
const MARKS = { higher: "↑", lower: "↓" };

/** Two decimals for percentages, four digits for anything else; a true minus sign. */
function number(value, unit, sign = false) {
  let text = unit === "%" ? value.toFixed(2) : fourDigits(value);
  if (sign && value >= 0) text = `+${text}`;
  return ["-0.00", "+0.00"].includes(text) ? "0.00" : text.replaceAll("-", "−");
}

/** As Python's `.4g`. */
function fourDigits(value) {
  if (value === 0) return "0";
  const [digits, exponent] = value.toExponential(3).split("e");
  const power = Number(exponent);
  if (power >= -4 && power < 4) return String(Number(value.toPrecision(4)));
  return `${Number(digits)}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

function pText(p) {
  if (p === null) return "";
  if (p < 0.0001) return "<0.0001";
  return p < 0.1 ? String(Number(p.toPrecision(2))) : p.toFixed(2);
}

function interval(low, high, unit, sign = false) {
  return low === null || high === null ? "" : `${number(low, unit, sign)} to ${number(high, unit, sign)}`;
}

/** `61.30 ± 1.24 ↓`, or why there is no number. */
function cellText(cell, column, row, grid) {
  if (!cell) return DASH;
  const { summary, comparison, count } = cell;
  if (!summary) return row.unfinished[column.protocol] ?? DASH;
  let text = number(summary.mean, column.unit);
  if (summary.n === 1) text += ` (one ${grid.unit})`;
  else if (summary.low === null) text += ` (identical over ${grid.unit}s)`;
  else text += ` ± ${number((summary.high - summary.low) / 2, column.unit)}`;
  if (summary.n > 1 && summary.n < grid.replicates) text += ` (n=${summary.n})`;
  if (comparison && comparison.n !== count) text += ` (${comparison.n} paired)`;
  return comparison && MARKS[comparison.verdict] ? `${text} ${MARKS[comparison.verdict]}` : text;
}

/** The small print of a cell: the difference and its p. */
function differenceText(cell, column) {
  const { comparison, count } = cell;
  const pairs = comparison.n === count ? "" : ` (n=${comparison.n})`;
  const p = pText(comparison.primary ? comparison.p : comparison.pHolm);
  const relation = p.startsWith("<") ? `< ${p.slice(1)}` : `= ${p}`;
  return number(comparison.difference, column.unit, true) + pairs + (p ? `, p ${relation}` : "");
}

const LATEX = {
  "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#", _: "\\_", "{": "\\{", "}": "\\}",
  "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "↑": "$\\uparrow$", "↓": "$\\downarrow$",
  "−": "$-$", "–": "--", "<": "$<$", ">": "$>$", "≤": "$\\leq$", "×": "$\\times$",
};
const oneLine = text => text.split(/\s+/).filter(Boolean).join(" ");
const forLatex = text => [...oneLine(text)].map(letter => LATEX[letter] ?? letter).join("");
const forMarkdown = text => oneLine(text).replaceAll("|", "\\|").replace(/<(?=[A-Za-z/!?])/g, "&lt;");

/** Spreadsheets compute what begins like a formula. */
function forCsv(text) {
  const inert = /^([=@\t\r]|[+-](?! |[\d.]+(e[+-]?\d+)?$))/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(inert) ? `"${inert.replaceAll('"', '""')}"` : inert;
}

/** A table of texts, its first line the headings, the first column text and the others numbers. */
const FORMS = {
  Markdown: lines => {
    const rule = lines[0].map((_, index) => (index ? "---:" : "---"));
    return [lines[0], rule, ...lines.slice(1)].map(cells => `| ${cells.map(forMarkdown).join(" | ")} |`).join("\n");
  },
  LaTeX: lines => {
    const [head, ...body] = lines.map(cells => `${cells.map(forLatex).join(" & ")} \\\\`);
    return [`\\begin{tabular}{l${"r".repeat(lines[0].length - 1)}}`, "\\toprule", head, "\\midrule", ...body, "\\bottomrule",
      "\\end{tabular}"].join("\n");
  },
  CSV: lines => lines.map(cells => cells.map(forCsv).join(",")).join("\n"),
};
