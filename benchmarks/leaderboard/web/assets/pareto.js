// Skill against what it costs; the front is told by the records' own code, and only drawn here.

const COSTS = [['seconds_per_trajectory', 'Prediction'], ['training_seconds', 'Training']];
const COST_AXES = {
  seconds_per_trajectory: { factor: 1, name: 'CPU seconds a trajectory', title: 's / trajectory' },
  training_seconds: { factor: 1 / 60, name: 'CPU minutes of training', title: 'Training, min' },
};
const NOTHING = 46; // Pixels for what costs nothing, left of the logarithmic axis.

function skillAt(line, lag) {
  const i = line.curve.lags_fs.indexOf(lag);
  return i < 0 ? null : line.curve.skill[i];
}

function costOf(line, key) {
  const value = line.costs[key];
  return isNumber(value) ? COST_AXES[key].factor * value : null;
}

function showPareto() {
  const part = currentPart();
  if (!part.front_lags_fs.includes(chosen.frontLag)) [chosen.frontLag] = part.front_lags_fs;
  const again = (name) => (value) => {
    chosen[name] = value;
    showPareto();
    [...byId('pareto-controls').querySelectorAll('button')].find((b) => b.dataset.value === String(value))?.focus();
  };
  byId('pareto-controls').replaceChildren(
    switcher('Cost', COSTS, chosen.cost, again('cost')),
    switcher('Lag', part.front_lags_fs.map((lag) => [lag, fs(lag)]), chosen.frontLag, again('frontLag')));
  drawPareto(part);
  showParetoTable(part);
}

function drawPareto(part) {
  const box = byId('pareto-chart');
  const look = looks(part.lines);
  const all = part.lines.map((line) => ({
    line, cost: costOf(line, chosen.cost), skill: skillAt(line, chosen.frontLag),
    isFront: line.fronts[chosen.cost].includes(chosen.frontLag),
  })).filter((point) => isNumber(point.cost) && isNumber(point.skill));
  const points = all.filter((point) => point.skill >= SKILL_FLOOR);
  byId('pareto-note').textContent = `${part.part}, skill at ${fs(chosen.frontLag)}, median over molecules; grey are trivial predictors and oracles.`
    + ' Oracles and submitted rows are not compared.'
    + (points.length < all.length ? ` Skill below \u2212${-SKILL_FLOOR} is not drawn.` : '');
  if (!points.length) {
    box.replaceChildren(make('p', { class: 'note' }, 'No record here says what it cost.'));
    return;
  }
  const width = Math.max(280, box.clientWidth || 800);
  const height = width > 640 ? 440 : 380;
  const frame = { left: 56, right: width - 14, top: 34, bottom: height - 52 };
  const paid = points.map((point) => point.cost).filter((cost) => cost > 0);
  const isFree = paid.length < points.length;
  const [low, high] = paid.length ? [Math.min(...paid) / 1.6, Math.max(...paid) * 1.6] : [1, 10];
  const first = frame.left + (isFree ? NOTHING : 0);
  const floor = Math.max(SKILL_FLOOR, Math.min(0, ...points.map((point) => point.skill)) - 0.1);
  const scale = {
    low, high, floor, isFree,
    xAt: (cost) => (cost > 0 ? first + (Math.log(cost / low) / Math.log(high / low)) * (frame.right - first) : frame.left + NOTHING / 2),
    yAt: (value) => frame.bottom - ((value - floor) / (1 - floor)) * (frame.bottom - frame.top),
  };
  const title = `Skill at ${fs(chosen.frontLag)} against ${COST_AXES[chosen.cost].name}; the figures stand in the table below`;
  const svg = draw('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': title, class: 'chart' });
  svg.append(paretoAxes(scale, frame));
  const front = points.filter((point) => point.isFront).sort((a, b) => a.cost - b.cost || a.skill - b.skill);
  if (front.length) {
    // Steps: between two models the cheaper one is still the best to be had.
    const steps = front.map(({ cost, skill: y }, i) => `${i ? 'H' : 'M'}${scale.xAt(cost).toFixed(1)}${i ? 'V' : ' '}${scale.yAt(y).toFixed(1)}`);
    svg.append(draw('path', { class: 'front', d: `${steps.join('')}H${frame.right}` }));
  }
  svg.append(...pointLabels(points, look, scale, frame));
  for (const { line, cost, skill: y } of points) {
    const { css, marker: kind } = look.get(line.label);
    const group = draw('g', { class: 'point', 'data-model': line.label }, draw('title', {}, `${line.label}: ${figure(cost)}, skill ${skill(y)}`));
    group.append(marker(kind || 'circle', scale.xAt(cost), scale.yAt(y), css));
    svg.append(group);
  }
  box.replaceChildren(svg);
}

// Where they fit without covering another; on the front they come first, and beyond it some may stay away.
function pointLabels(points, look, scale, frame) {
  const taken = points.map(({ cost, skill: y }) => ({ x: scale.xAt(cost) - 5, y: scale.yAt(y), width: 10 }));
  const isFree = (one) => taken.every((other) => Math.abs(other.y - one.y) >= 13
    || one.x + one.width < other.x || other.x + other.width < one.x);
  const found = [];
  for (const { line, cost, skill: value } of [...points].sort((a, b) => Number(b.isFront) - Number(a.isFront) || b.skill - a.skill)) {
    const text = line.label.length > 22 ? `${line.label.slice(0, 21)}…` : line.label;
    const [x, y, size] = [scale.xAt(cost), scale.yAt(value), 8.2 * text.length];
    // Above the step line first.
    const places = [-10, 0, 14, -24, 28].flatMap((shift) => [x + 9, x - 9 - size].map((left) => ({ x: left, y: y + shift, width: size })));
    const place = places.find((one) => one.x > frame.left && one.x + size <= frame.right + 10 && one.y > frame.top - 10 && one.y < frame.bottom && isFree(one));
    if (!place) continue;
    taken.push(place);
    found.push(draw('text', { x: place.x, y: place.y + 4, class: `label halo ${look.get(line.label).css}` }, text));
  }
  return found;
}

function paretoAxes(scale, frame) {
  const group = draw('g', { class: 'axes' });
  for (const value of [-2, -1.5, -1, -0.5, 0, 0.5, 1].filter((v) => v >= scale.floor)) {
    const y = scale.yAt(value);
    group.append(draw('line', { x1: frame.left, x2: frame.right, y1: y, y2: y, class: value === 0 ? 'zero' : 'grid' }),
      draw('text', { x: frame.left - 8, y: y + 4, 'text-anchor': 'end' }, String(value).replace('-', '\u2212')));
  }
  let costs = ticks125(scale.low, scale.high);
  if (costs.length > 7) costs = costs.filter((v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-6);
  if (scale.isFree) costs.unshift(0);
  for (const cost of costs) {
    const x = scale.xAt(cost);
    group.append(draw('line', { x1: x, x2: x, y1: frame.bottom, y2: frame.bottom + 5, class: 'tick' }),
      draw('text', { x, y: frame.bottom + 20, 'text-anchor': 'middle' }, cost ? costText(cost) : 'none'));
  }
  group.append(draw('text', { x: (frame.left + frame.right) / 2, y: frame.bottom + 42, 'text-anchor': 'middle', class: 'title' }, COST_AXES[chosen.cost].name),
    draw('text', { x: frame.left - 44, y: frame.top - 14, class: 'title' }, 'skill'));
  return group;
}

function costText(cost) {
  if (cost >= 0.001 && cost < 10000) return String(Number(cost.toPrecision(1)));
  const power = Math.floor(Math.log10(cost) + 1e-9);
  const raised = String(power).replace('-', '⁻').replace(/\d/g, (d) => '⁰¹²³⁴⁵⁶⁷⁸⁹'[d]);
  const factor = Math.round(cost / 10 ** power);
  return `${factor === 1 ? '' : `${factor}·`}10${raised}`;
}

function showParetoTable(part) {
  const lags = part.front_lags_fs;
  byId('pareto-table').replaceChildren(sortableTable({
    caption: `${currentTask().task}, ${part.part}: skill beside cost`, region: 'Figures of skill and cost',
    rows: part.lines, sort: { key: 'seconds_per_trajectory', down: false },
    columns: [
      { key: 'model', label: 'Model', text: true, value: number('label'), show: nameCell },
      ...COSTS.map(([key]) => ({ key, label: COST_AXES[key].title, value: (l) => costOf(l, key), format: figure })),
      ...lags.map((lag) => ({ key: `skill ${lag}`, label: fs(lag), best: 'high', value: (l) => skillAt(l, lag), format: skill })),
      ...COSTS.map(([key, name]) => ({
        key: `front ${key}`, label: `Front, ${name.toLowerCase()}`, text: true,
        value: (l) => l.fronts[key].join(','), show: (l) => plain(l.fronts[key].map((lag) => Number(lag.toPrecision(4))).join(', ')),
        title: 'Lags in fs at which no model beats it in skill without costing more.',
      })),
    ],
  }));
}
