// Means, t-intervals, paired t-tests and Holm's adjustment: the numbers of mimbench/report/statistics.py, to 1e-9.
"use strict";

const LEVEL = 0.05;
const CONFIDENCE = 0.95;
const NOT_SIGNIFICANT = "not significant";
const ONE_PAIR = "no test with one seed";
const CONSTANT = "no test: the same difference in every seed";

/** The sum without rounding errors in between (Shewchuk), as math.fsum. */
function exactSum(values) {
  const partials = [];
  for (let sum of values) {
    let kept = 0;
    for (let part of partials) {
      if (Math.abs(sum) < Math.abs(part)) [sum, part] = [part, sum];
      const high = sum + part;
      const low = part - (high - sum);
      if (low !== 0) partials[kept++] = low;
      sum = high;
    }
    partials.length = kept;
    partials.push(sum);
  }
  return partials.reduceRight((total, part) => total + part, 0);
}

/** gamma(a + 1/2) / gamma(a) for a = freedom / 2, by recurrence: no gamma function is needed. */
function gammaRatio(freedom) {
  let a = freedom % 2 ? 0.5 : 1;
  let ratio = freedom % 2 ? 1 / Math.sqrt(Math.PI) : Math.sqrt(Math.PI) / 2;
  for (; a < freedom / 2; a += 1) ratio *= (a + 0.5) / a;
  return ratio;
}

/** The continued fraction of the incomplete beta function, by Lentz's method. */
function betaFraction(a, b, x) {
  const away = value => (Math.abs(value) < 1e-300 ? 1e-300 : value);
  let c = 1;
  let d = 1 / away(1 - ((a + b) * x) / (a + 1));
  let fraction = d;
  for (let m = 1; m < 10000; m += 1) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / away(1 + even * d);
    c = away(1 + even / c);
    fraction *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / away(1 + odd * d);
    c = away(1 + odd / c);
    fraction *= d * c;
    if (Math.abs(d * c - 1) < 1e-15) break;
  }
  return fraction;
}

/** P(|T| > t) of Student's t: the regularized incomplete beta function at freedom / (freedom + t^2). */
function twoSided(freedom, t) {
  const square = (t * t) / freedom;
  if (square === 0) return 1;
  if (square === Infinity) return 0;
  const a = freedom / 2;
  const x = 1 / (1 + square);
  const rest = square / (1 + square);
  const front = Math.exp(-a * Math.log1p(square)) * Math.sqrt(rest) * gammaRatio(freedom) / Math.sqrt(Math.PI);
  return x < (a + 1) / (a + 2.5) ? (front / a) * betaFraction(a, 0.5, x) : 1 - (front / 0.5) * betaFraction(0.5, a, rest);
}

const quantiles = new Map();

/** The t that a two-sided interval of 95 % reaches. From below, Newton's steps on this convex function never overshoot. */
function quantile(freedom) {
  if (!quantiles.has(freedom)) {
    let t = 1.95;
    for (let step = 0; step < 100; step += 1) {
      const density = (gammaRatio(freedom) / Math.sqrt(Math.PI * freedom)) *
        Math.exp(-((freedom + 1) / 2) * Math.log1p((t * t) / freedom));
      const change = (twoSided(freedom, t) - (1 - CONFIDENCE)) / (2 * density);
      t += change;
      if (Math.abs(change) < 1e-15 * t) break;
    }
    quantiles.set(freedom, t);
  }
  return quantiles.get(freedom);
}

const ascending = values => [...values].sort((a, b) => a - b);

/** Equal but for rounding. */
function isConstant(ordered, scale) {
  return ordered[ordered.length - 1] - ordered[0] <= 1e-9 * Math.max(...scale.map(Math.abs));
}

function spread(values, mean) {
  return exactSum(values.map(value => (value - mean) ** 2)) / (values.length - 1);
}

function tTest(values) {
  const n = values.length;
  const mean = exactSum(values) / n;
  const error = Math.sqrt(spread(values, mean) / n);
  const half = quantile(n - 1) * error;
  return { low: mean - half, high: mean + half, p: twoSided(n - 1, Math.abs(mean) / error) };
}

/** Mean, standard deviation and interval; null without values. */
function summarize(values) {
  if (!values.length) return null;
  const ordered = ascending(values);
  const n = ordered.length;
  const mean = exactSum(ordered) / n;
  if (n === 1) return { n, mean, sd: null, low: null, high: null };
  if (isConstant(ordered, ordered)) return { n, mean, sd: 0, low: null, high: null };
  const { low, high } = tTest(ordered);
  return { n, mean, sd: Math.sqrt(spread(ordered, mean)), low, high };
}

/** The paired test of a row against its reference over what both have (Maps by seed); null if that is nothing. */
function compare(values, base) {
  const shared = [...values.keys()].filter(seed => base.has(seed)).sort((a, b) => a - b);
  if (!shared.length) return null;
  const pairs = shared.map(seed => [seed, values.get(seed) - base.get(seed)]);
  const ordered = ascending(pairs.map(([, difference]) => difference));
  const found = { n: shared.length, difference: exactSum(ordered) / ordered.length, low: null, high: null, p: null, pairs };
  if (shared.length === 1) return { ...found, verdict: ONE_PAIR };
  const scale = shared.flatMap(seed => [values.get(seed), base.get(seed)]);
  if (isConstant(ordered, scale)) return { ...found, verdict: CONSTANT };
  return { ...found, ...tTest(ordered), verdict: NOT_SIGNIFICANT };
}

/** Holm's step-down adjustment of a Map of p values. */
function holm(pValues, family) {
  const count = Math.max(family, pValues.size);
  const adjusted = new Map();
  let running = 0;
  [...pValues].sort((a, b) => a[1] - b[1]).forEach(([name, p], rank) => {
    running = Math.max(running, Math.min(1, (count - rank) * p));
    adjusted.set(name, running);
  });
  return adjusted;
}

/** Verdicts of one column: a Map of comparisons by row. `family`: the comparisons that were planned, without the primary one. */
function judge(comparisons, primary, family) {
  const tested = [...comparisons].filter(([row, found]) => found.p !== null && row !== primary);
  const adjusted = holm(new Map(tested.map(([row, found]) => [row, found.p])), family);
  const judged = new Map();
  for (const [row, found] of comparisons) {
    const pHolm = adjusted.get(row) ?? null;
    const decisive = row === primary ? found.p : pHolm;
    const significant = decisive !== null && decisive < LEVEL;
    const verdict = significant ? (found.difference > 0 ? "higher" : "lower") : found.verdict;
    judged.set(row, { ...found, pHolm, primary: row === primary, verdict });
  }
  return judged;
}
