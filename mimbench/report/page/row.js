// What is known of one row: the drawer that it opens into, and two rows side by side.
"use strict";

const SEED_COLORS = ["var(--accent)", "var(--base)", "var(--up)", "var(--down)", "var(--muted)"];

const plain = value => (typeof value === "string" ? value : JSON.stringify(value));

/** Every value of a row's recipe, by dotted key. */
function recipeOf(report, row) {
  const kept = Object.entries(report.recipe).filter(([key]) => !row.recipe.without.includes(key));
  return new Map(Object.entries({ ...Object.fromEntries(kept), ...row.recipe.changed }).sort());
}

/** The keys in which two recipes differ, with both values; of what one of them lacks altogether, one line. */
function recipeDifference(report, row, other) {
  const [own, theirs] = [recipeOf(report, row), recipeOf(report, other)];
  const keys = [...new Set([...own.keys(), ...theirs.keys()])].sort();
  const shown = (recipe, key) => (recipe.has(key) ? plain(recipe.get(key)) : DASH);
  const whole = key => key.split(".")[0];
  const missing = recipe => new Set(keys.map(whole).filter(name => ![...recipe.keys()].some(key => whole(key) === name)));
  const [notOwn, notTheirs] = [missing(own), missing(theirs)];
  const lines = keys.map(key => [key, shown(own, key), shown(theirs, key)]).filter(([, a, b]) => a !== b);
  const parts = [...notOwn, ...notTheirs].sort().map(name => {
    const [recipe, absent] = notOwn.has(name) ? [theirs, own] : [own, theirs];
    const text = shown(recipe, `${name}.type`);
    const words = text === DASH ? "set" : text;
    return absent === own ? [name, DASH, words] : [name, words, DASH];
  });
  return [...parts, ...lines.filter(([key]) => !notOwn.has(whole(key)) && !notTheirs.has(whole(key)))];
}

function differenceSection(report, row, other) {
  const lines = recipeDifference(report, row, other);
  return section(`Recipe against ${other.label}`, lines.length
    ? makeTable(["Setting", row.label, other.label], lines, "Differences between the recipes")
    : make("p", {}, "The same recipe."));
}

function curveSection(rows) {
  const series = rows.flatMap((row, index) => Object.values(row.curves ?? {}).map(([x, y], place) =>
    ({ x, y, color: SEED_COLORS[(rows.length > 1 ? index : place) % SEED_COLORS.length] })));
  if (!series.length) return null;
  const names = rows.length > 1 ? rows.map(row => row.label) : Object.keys(rows[0].curves).map(seed => `seed ${seed}`);
  const key = make("p", { class: "key" }, ...names.map((name, index) =>
    make("span", { style: `--line: ${SEED_COLORS[index % SEED_COLORS.length]}` }, name)));
  return section("Pre-training loss", lineChart(series, "step", "loss"), key);
}

/** One line per evaluation: the number, the difference and each seed. */
function valueLines(report, cells, row) {
  return report.columns.filter(column => column.protocol in row.values).map(column => {
    const cell = cells.get(column.protocol).get(row.name);
    const values = row.values[column.protocol];
    return [column.heading, cellText(cell, column, row, report.grid), cell.comparison ? differenceText(cell, column) : "",
      ...report.grid.seeds.map(seed => (seed in values ? number(values[seed], column.unit) : DASH))];
  });
}

function runList(report, row) {
  const items = Object.entries(row.runs).flatMap(([seed, runs]) => Object.entries(runs).map(([kind, name]) => {
    const shown = make("code", {}, name);
    const link = report.runs_at ? make("a", { href: `${report.runs_at}/${encodeURIComponent(name)}/` }, shown) : shown;
    return make("li", {}, `${kind.replaceAll("_", " ")}, seed ${seed}: `, link, report.states[name] ? ` (${report.states[name]})` : "");
  }));
  return make("details", {}, make("summary", {}, `Runs (${items.length})`), make("ul", {}, ...items));
}

function list(title, items) {
  return items.length ? section(title, make("ul", {}, ...items.map(item => make("li", {}, item)))) : null;
}

function costSection(row) {
  if (!row.cost.length) return null;
  const flops = row.flops ? make("p", {}, `FLOPs of the whole training, one seed: ${row.flops}`) : "";
  return section("Cost", flops, makeTable(["Kind", "Runs", "Mean time", "Mean images", "Peak memory"], row.cost, "Cost by kind of run"));
}

function pictureSection(row) {
  const figures = row.pictures.map(({ caption, uri }) =>
    make("figure", {}, make("img", { src: uri, alt: caption }), make("figcaption", {}, caption)));
  return figures.length ? section("Pictures", ...figures) : null;
}

/** Everything about a row. `texts`: the row's line of the table, for copying. */
function rowContent(report, cells, row, other, texts) {
  const headings = ["Evaluation", `Mean ± 95 % CI`, `Difference from ${other.label}`, ...report.grid.seeds.map(seed => `Seed ${seed}`)];
  const forms = Object.fromEntries(Object.entries(FORMS).map(([form, write]) => [form, () => write(texts)]));
  if (row.bibtex) forms.BibTeX = () => row.bibtex;
  const settings = [...recipeOf(report, row)].map(([key, value]) => [key, plain(value)]);
  return [
    make("p", { class: "soft" }, row.description), copyButtons(forms),
    section("Numbers", makeTable(headings, valueLines(report, cells, row), "Numbers of this row")),
    list("Flags", row.flags), other === row ? null : differenceSection(report, row, other), curveSection([row]), pictureSection(row),
    section("This row alone", make("pre", { tabindex: "0", role: "region", "aria-label": "Command" }, row.command)), costSection(row),
    make("details", {}, make("summary", {}, `Resolved recipe (${settings.length} settings)`),
      makeTable(["Setting", "Value"], settings, "Resolved recipe")),
    runList(report, row),
  ].filter(Boolean);
}

/** Two rows: numbers seed by seed, the test between them, recipes and curves. */
function comparisonContent(report, first, second) {
  const cells = allCells(report, second.name);
  const shared = report.columns.filter(column => column.protocol in first.values && column.protocol in second.values);
  const lines = shared.flatMap(column => {
    const cell = cells.get(column.protocol).get(first.name);
    const pair = seed => [first, second].map(row => row.values[column.protocol][seed]);
    const seeds = report.grid.seeds.filter(seed => pair(seed).every(value => value !== undefined));
    const found = cell.comparison;
    const whole = [column.heading, "all", meanText(cell.summary, column),
      meanText(cells.get(column.protocol).get(second.name).summary, column),
      found ? number(found.difference, column.unit, true) : DASH, found ? interval(found.low, found.high, column.unit, true) : "",
      found ? pText(found.p) : ""];
    return [whole, ...seeds.map(seed => {
      const [own, theirs] = pair(seed);
      return [column.heading, String(seed), number(own, column.unit), number(theirs, column.unit),
        number(own - theirs, column.unit, true), "", ""];
    })];
  });
  return [
    makeTable(["Evaluation", "Seed", first.label, second.label, "Difference", "95 % CI", "p (unadjusted)"], lines, "Paired numbers"),
    make("p", { class: "soft" }, "Two-sided paired t-test of these two rows alone: exploratory."),
    differenceSection(report, first, second), curveSection([first, second]),
  ].filter(Boolean);
}

const meanText = (summary, column) => (summary ? number(summary.mean, column.unit) : DASH);
