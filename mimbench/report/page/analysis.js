// The cells of the table against any reference: what mimbench/report/analysis.py computes, in the page.
"use strict";

/** The mean of each replicate whose seeds are all there and in `among`: the seeds of one share runs. */
function replicates(grid, values, among) {
  const found = new Map();
  for (const [seed, value] of values) {
    if (!among.has(seed)) continue;
    const replicate = Math.floor(seed / grid.seeds_per_replicate);
    found.set(replicate, [...(found.get(replicate) ?? []), value]);
  }
  const whole = [...found].filter(([, of]) => of.length === grid.seeds_per_replicate);
  return new Map(whole.map(([replicate, of]) => [replicate, exactSum(of) / of.length]));
}

const bySeed = values => new Map(Object.entries(values).map(([seed, value]) => [Number(seed), value]));

/** One column: a Map from row to {summary, comparison}. `reference`: a row's name; null for each row's pre-specified one. */
function columnCells(report, column, reference) {
  const { grid } = report;
  const rows = report.rows.filter(row => column.protocol in row.values);
  const values = new Map(rows.map(row => [row.name, bySeed(row.values[column.protocol])]));
  const primary = reference === null && grid.primary?.protocol === column.protocol ? grid.primary.row : null;
  const comparisons = new Map();
  let family = 0;
  for (const row of rows) {
    const against = reference ?? row.reference;
    if (against === row.name || !values.has(against)) continue;
    family += row.name !== primary;
    const own = values.get(row.name);
    const base = values.get(against);
    const found = compare(replicates(grid, own, base), replicates(grid, base, own));
    if (found) comparisons.set(row.name, found);
  }
  const judged = judge(comparisons, primary, family);
  const cells = new Map();
  for (const [name, own] of values) {
    const means = replicates(grid, own, own);
    cells.set(name, { summary: summarize([...means.values()]), count: means.size, comparison: judged.get(name) ?? null });
  }
  return cells;
}

/** By protocol, then by row. */
function allCells(report, reference) {
  return new Map(report.columns.map(column => [column.protocol, columnCells(report, column, reference)]));
}
