// Elements, numbers, and what is chosen. Text only ever enters the page as text, never as HTML.

const PRINTED = 100; // A^2 -> 1e-2 A^2
const SVG = 'http://www.w3.org/2000/svg';
const data = JSON.parse(document.getElementById('data').textContent);

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const byId = (id) => document.getElementById(id);
const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);

// Three digits, as the printed tables have.
function error(value) {
  if (!isNumber(value)) return '–';
  const printed = PRINTED * value;
  if (printed === 0) return '0';
  if (Math.abs(printed) >= 100) return Math.round(printed).toLocaleString('en-US').replaceAll(',', '\u2009');
  return Number(printed.toPrecision(3)) < 0.001 ? printed.toExponential(1) : printed.toPrecision(3);
}

function skill(value) {
  if (!isNumber(value)) return '–';
  const sign = value < 0 ? '\u2212' : '+';
  const size = Math.abs(value);
  return sign + (size >= 100 ? Math.round(size).toLocaleString('en-US').replaceAll(',', '\u2009') : size.toFixed(2));
}

// Seconds, counts and other numbers, with the digits that a reader can use.
function figure(value) {
  if (!isNumber(value)) return '–';
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString('en-US').replaceAll(',', '\u2009');
  return value === 0 ? '0' : String(Number(value.toPrecision(2)));
}

const percent = (value) => (isNumber(value) ? (100 * value).toFixed(1) : '–');
const plain = (value) => (value === null || value === undefined || value === '' ? '–' : String(value));
const fs = (lag) => `${Number(lag.toPrecision(6))} fs`;

const KIND_WORDS = {
  reference: 'a trivial predictor',
  oracle: 'uses what no model may know',
  submitted: 'predicted outside, scored here',
};

function badge(kind) {
  return KIND_WORDS[kind] ? make('span', { class: `badge ${kind}`, title: KIND_WORDS[kind] }, kind) : null;
}

// What is chosen; the address keeps it, so that a view can be sent to someone.
const chosen = { task: 0, fold: '', part: '', molecule: '', quantity: 'mse', score: 's2s', cost: 'seconds_per_trajectory', frontLag: null, hidden: new Set() };

function currentTask() { return data.tasks[chosen.task]; }
function currentFold() {
  const folds = currentTask().folds;
  return folds.find((one) => one.fold === chosen.fold) || folds[0];
}
function currentPart() {
  const parts = currentFold().parts;
  return parts.find((one) => one.part === chosen.part) || parts[0];
}
function moleculesOf(part) {
  return [...new Set(part.lines.flatMap((line) => Object.keys(line.molecules)))].sort();
}

// Where validation data chose it, one reference stands for all molecules; elsewhere each has its own.
const skillNote = (part) => (part.skill_reference ? `Skill is against ${part.skill_reference}.` : '');

// Stands for the molecules that have a floor, whose mean can be compared with it.
const WITH_FLOOR = '*floor';

function moleculesWithFloor(part) {
  return part.floors.length ? Object.keys(part.floors[0].molecules).sort() : [];
}

// The curve over some molecules: errors as their mean, skill as their median.
function curveOver(line, names) {
  const curves = names.filter((name) => Object.hasOwn(line.molecules, name)).map((name) => line.molecules[name].curve);
  if (curves.length < names.length || !curves.length) return null;
  const over = (key, combine) => curves[0].lags_fs.map((lag, i) => {
    const values = curves.map((curve) => curve[key][i]).filter(isNumber);
    return values.length === names.length ? combine(values) : null;
  });
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    const half = (sorted.length - 1) / 2;
    return (sorted[Math.floor(half)] + sorted[Math.ceil(half)]) / 2;
  };
  return { lags_fs: curves[0].lags_fs, mse: over('mse', mean), mse_aligned: over('mse_aligned', mean), skill: over('skill', median) };
}

function curveOf(line) {
  if (!chosen.molecule) return line.curve;
  if (chosen.molecule === WITH_FLOOR) return curveOver(line, moleculesWithFloor(currentPart()));
  const own = Object.hasOwn(line.molecules, chosen.molecule) ? line.molecules[chosen.molecule] : null;
  return own ? own.curve : null;
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const index = data.tasks.findIndex((t) => t.task === given.get('task') && t.track === given.get('track'));
  if (index >= 0) chosen.task = index;
  for (const name of ['fold', 'part', 'molecule']) if (given.has(name)) chosen[name] = given.get(name);
}

function writeAddress() {
  const given = new URLSearchParams();
  given.set('task', currentTask().task);
  given.set('track', currentTask().track);
  given.set('part', chosen.part);
  if (chosen.fold) given.set('fold', chosen.fold);
  if (chosen.molecule) given.set('molecule', chosen.molecule);
  try { history.replaceState(null, '', `#${given}`); } catch { /* Some browsers forbid it for files. */ }
}

// A list to choose from. `options`: [value, label] pairs.
function selector(label, options, value, change) {
  const list = make('select', { onchange: () => change(list.value) });
  for (const [key, text] of options) list.append(make('option', { value: key, selected: key === value }, text));
  return make('label', { class: 'field' }, make('span', {}, label), list);
}

// A row of buttons of which one is pressed.
function switcher(label, options, value, change) {
  const group = make('div', { class: 'segments', role: 'group', 'aria-label': label });
  for (const [key, text] of options) {
    group.append(make('button', {
      type: 'button', 'data-value': key, 'aria-pressed': String(key === value), onclick: () => change(key),
    }, text));
  }
  return make('div', { class: 'field' }, make('span', { 'aria-hidden': 'true' }, label), group);
}

// The looks of the lines of a part: told apart by colour, dash and marker together.
const DASHES = { model: '', submitted: '', oracle: '1 4', reference: '' };
const REFERENCE_DASHES = ['6 4', '2 3', '10 4 2 4', '12 5', '4 2 1 2', '8 3 2 3 2 3'];
const MARKERS = ['circle', 'square', 'triangle', 'diamond', 'cross', 'plus', 'star'];
const N_COLOURS = 8;

function looks(lines) {
  // By name, so that a model keeps its look from part to part whatever its rank.
  const names = (kinds) => lines.filter((l) => kinds.includes(l.kind)).map((l) => l.label).sort();
  const models = names(['model', 'submitted']);
  const others = names(['reference', 'oracle']);
  const found = new Map();
  for (const line of lines) {
    const isModel = models.includes(line.label);
    const place = (isModel ? models : others).indexOf(line.label);
    found.set(line.label, {
      css: isModel ? `line c${place % N_COLOURS}` : 'line grey',
      dash: isModel ? (place < N_COLOURS ? '' : '9 3') : REFERENCE_DASHES[place % REFERENCE_DASHES.length],
      marker: isModel ? MARKERS[place % MARKERS.length] : null,
    });
  }
  return found;
}

function marker(kind, x, y, css) {
  const r = 4;
  const at = `translate(${x.toFixed(1)} ${y.toFixed(1)})`;
  const paths = {
    square: `M${-r} ${-r}H${r}V${r}H${-r}Z`,
    triangle: `M0 ${-r - 1}L${r + 1} ${r}H${-r - 1}Z`,
    diamond: `M0 ${-r - 1}L${r + 1} 0L0 ${r + 1}L${-r - 1} 0Z`,
    cross: `M${-r} ${-r}L${r} ${r}M${r} ${-r}L${-r} ${r}`,
    plus: `M0 ${-r - 1}V${r + 1}M${-r - 1} 0H${r + 1}`,
    star: `M0 ${-r - 1}V${r + 1}M${-r} ${-r / 2}L${r} ${r / 2}M${r} ${-r / 2}L${-r} ${r / 2}`,
  };
  const look = `${css} marker${['cross', 'plus', 'star'].includes(kind) ? ' open' : ''}`;
  return kind === 'circle'
    ? draw('circle', { class: look, cx: 0, cy: 0, r, transform: at })
    : draw('path', { class: look, d: paths[kind], transform: at });
}
