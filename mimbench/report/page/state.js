// What the reader chose, kept in the address: a link opens the same view.
"use strict";

const PARTS = ["tokenizer", "masker", "loss", "encoder"];

const emptyState = () => ({ sort: "", down: true, text: "", parts: {}, significance: "", hidden: [], reference: null,
  selected: [], open: null });

function readState(report) {
  const given = new URLSearchParams(location.hash.slice(1));
  const names = new Set(report.rows.map(row => row.name));
  const known = name => (names.has(name) ? name : null);
  const state = emptyState();
  const [sort, direction] = (given.get("sort") ?? "").split(" ");
  Object.assign(state, {
    sort: sort ?? "", down: direction !== "up", text: given.get("text") ?? "", significance: given.get("significance") ?? "",
    hidden: given.getAll("hide"), reference: known(given.get("reference")), open: known(given.get("open")),
    selected: given.getAll("compare").filter(known).slice(0, 2),
  });
  for (const part of PARTS) if (given.get(part)) state.parts[part] = given.get(part);
  return state;
}

function writeState(state) {
  const words = new URLSearchParams();
  if (state.sort) words.set("sort", `${state.sort} ${state.down ? "down" : "up"}`);
  for (const key of ["text", "significance", "reference", "open"]) if (state[key]) words.set(key, state[key]);
  for (const [part, type] of Object.entries(state.parts)) if (type) words.set(part, type);
  for (const column of state.hidden) words.append("hide", column);
  for (const row of state.selected) words.append("compare", row);
  const fragment = words.toString();
  history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
}
