// Error, or skill, against lag. Every line has a name at its end or in the legend, a dash or a marker.

const SKILL_FLOOR = -2;
const QUANTITIES = [['mse', 'Error'], ['mse_aligned', 'Aligned error'], ['skill', 'Skill']];

function ticks125(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const step of [1, 2, 5]) {
      const value = step * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  }
  return found;
}

// The points of each line that is shown: [{ line, look, points: [[lag, value]] }].
function chartSeries(part) {
  const look = looks(part.lines);
  const factor = chosen.quantity === 'skill' ? 1 : PRINTED;
  return part.lines.map((line) => {
    const curve = curveOf(line);
    const values = curve ? curve[chosen.quantity] : [];
    const points = values
      .map((value, i) => [curve.lags_fs[i], isNumber(value) ? factor * value : null])
      .filter(([lag, value]) => lag > 0 && value !== null && (chosen.quantity === 'skill' || value > 0));
    return { line, look: look.get(line.label), points };
  });
}

// The floors that what is shown can be compared with: [{ label, points: [[lag, value]] }].
function floorSeries(part) {
  if (chosen.quantity !== 'mse') return [];
  return part.floors.map((floor) => {
    const names = chosen.molecule === WITH_FLOOR ? moleculesWithFloor(part) : [chosen.molecule];
    const own = names.map((name) => (Object.hasOwn(floor.molecules, name) ? floor.molecules[name] : null));
    const mean = own.includes(null) ? null : floor.lags_fs.map((lag, i) => own.reduce((sum, v) => sum + v[i], 0) / own.length);
    const values = chosen.molecule ? mean : floor.mse;
    const points = (values || []).map((value, i) => [floor.lags_fs[i], PRINTED * value]);
    return { label: floor.label.replace(' A)', ' Å)'), points: points.filter(([lag, v]) => lag > 0 && isNumber(v) && v > 0) };
  }).filter((floor) => floor.points.length);
}

function scales(series, floors, frame) {
  const isSkill = chosen.quantity === 'skill';
  const shown = [...series.flatMap((one) => one.points), ...floors.flatMap((one) => one.points)];
  const lags = shown.map(([lag]) => lag);
  const values = shown.map(([, value]) => value);
  const x = { low: Math.min(...lags), high: Math.max(...lags) };
  const logX = (lag) => Math.log(lag / x.low) / (Math.log(x.high / x.low) || 1);
  const xAt = (lag) => frame.left + logX(lag) * (frame.right - frame.left);
  if (isSkill) {
    const low = Math.max(SKILL_FLOOR, Math.min(0, ...values) - 0.1);
    const y = { low, high: 1 };
    return { x, y, xAt, yAt: (v) => frame.bottom - ((v - low) / (1 - low)) * (frame.bottom - frame.top) };
  }
  const y = { low: Math.min(...values) / 1.25, high: Math.max(...values) * 1.25 };
  const logY = (value) => Math.log(value / y.low) / Math.log(y.high / y.low);
  return { x, y, xAt, yAt: (value) => frame.bottom - logY(value) * (frame.bottom - frame.top) };
}

function axes(scale, frame) {
  const isSkill = chosen.quantity === 'skill';
  const group = draw('g', { class: 'axes' });
  let yTicks = isSkill ? [-2, -1.5, -1, -0.5, 0, 0.5, 1].filter((v) => v >= scale.y.low) : ticks125(scale.y.low, scale.y.high);
  if (!isSkill && yTicks.length > 9) yTicks = yTicks.filter((v) => Math.abs(Math.log10(v) % 1) < 1e-6);
  for (const value of yTicks) {
    const y = scale.yAt(value);
    group.append(draw('line', { x1: frame.left, x2: frame.right, y1: y, y2: y, class: isSkill && value === 0 ? 'zero' : 'grid' }),
      draw('text', { x: frame.left - 8, y: y + 4, 'text-anchor': 'end' }, isSkill ? String(value).replace('-', '\u2212') : String(Number(value.toPrecision(2)))));
  }
  let last = -Infinity;
  for (const lag of new Set([...ticks125(scale.x.low, scale.x.high), scale.x.high])) {
    const x = scale.xAt(lag);
    group.append(draw('line', { x1: x, x2: x, y1: frame.bottom, y2: frame.bottom + 5, class: 'tick' }));
    if (x - last > 34) {
      group.append(draw('text', { x, y: frame.bottom + 20, 'text-anchor': 'middle' }, String(Number(lag.toPrecision(4)))));
      last = x;
    }
  }
  const name = { mse: 'mean squared error, 10⁻² Å²', mse_aligned: 'aligned error, 10⁻² Å²', skill: 'skill' }[chosen.quantity];
  group.append(
    draw('text', { x: (frame.left + frame.right) / 2, y: frame.bottom + 42, 'text-anchor': 'middle', class: 'title' }, 'lag, fs'),
    draw('text', { x: frame.left - 44, y: frame.top - 14, class: 'title' }, name));
  return group;
}

function drawLine({ line, look, points }, scale, frame) {
  const isInside = ([, v]) => scale.yAt(v) <= frame.bottom + 0.5;
  const inside = points.filter(isInside);
  if (!inside.length) return null;
  // A line that leaves the picture begins anew where it comes back.
  const d = points.map(([lag, v], i) => (isInside([lag, v])
    ? `${i && isInside(points[i - 1]) ? 'L' : 'M'}${scale.xAt(lag).toFixed(1)} ${scale.yAt(v).toFixed(1)}` : '')).join('');
  const group = draw('g', { class: 'series', 'data-model': line.label },
    draw('title', {}, line.label),
    draw('path', { class: look.css, d, 'stroke-dasharray': look.dash || null }));
  if (look.marker) for (const [lag, v] of inside) group.append(marker(look.marker, scale.xAt(lag), scale.yAt(v), look.css));
  return group;
}

// Names at the right ends, pushed apart so that none covers another.
function endLabels(series, scale, frame) {
  const ends = series.filter((one) => one.points.length)
    .map((one) => ({ one, y: scale.yAt(one.points.at(-1)[1]) }))
    .filter(({ y }) => y <= frame.bottom).sort((a, b) => a.y - b.y);
  const step = 15;
  let free = frame.top - step;
  for (const end of ends) { end.at = Math.max(end.y, free + step); free = end.at; }
  let limit = frame.bottom + step;
  for (const end of [...ends].reverse()) { end.at = Math.min(end.at, limit - step); limit = end.at; }
  return ends.map(({ one, y, at }) => draw('g', { class: 'end' },
    draw('path', { class: 'leader', d: `M${frame.right + 6} ${y.toFixed(1)}L${frame.right + 16} ${at.toFixed(1)}` }),
    draw('text', { x: frame.right + 20, y: at + 4, class: `label ${one.look.css}` },
      one.line.label.length > 22 ? `${one.line.label.slice(0, 21)}…` : one.line.label)));
}

function showCurves() {
  const part = currentPart();
  const molecules = moleculesOf(part);
  const withFloor = moleculesWithFloor(part);
  const named = chosen.molecule === WITH_FLOOR ? withFloor.length && !part.floors[0].mse : molecules.includes(chosen.molecule);
  if (!named) chosen.molecule = '';
  // Where all molecules have one, the mean over all has its floor already.
  const special = withFloor.length && !part.floors[0].mse
    ? [[WITH_FLOOR, `mean over the ${withFloor.length} molecule${withFloor.length > 1 ? 's' : ''} with a floor`]] : [];
  const again = (change) => (value) => { change(value); writeAddress(); showCurves(); showMolecules(); };
  byId('curve-controls').replaceChildren(
    switcher('Quantity', QUANTITIES, chosen.quantity, again((value) => { chosen.quantity = value; })),
    selector('Molecule', [['', `${chosen.quantity === 'skill' ? 'median' : 'mean'} over molecules`], ...special, ...molecules.map((m) => [m, m])], chosen.molecule,
      again((value) => { chosen.molecule = value; })));
  const all = chartSeries(part);
  const series = all.filter((one) => !chosen.hidden.has(one.line.label));
  const floors = floorSeries(part);
  drawChart(series, floors);
  showLegend(all, floors);
  showChartTable(all, floors);
}

function drawChart(series, floors) {
  const part = currentPart();
  const box = byId('chart');
  const width = Math.max(280, box.clientWidth || 800);
  const isWide = width > 640;
  const height = isWide ? 440 : 340;
  const frame = { left: 56, right: width - (isWide ? 170 : 14), top: 34, bottom: height - 52 };
  const lagAxis = chosen.quantity === 'skill' ? 'on a logarithmic lag axis' : 'on logarithmic axes';
  const average = chosen.quantity === 'skill' ? 'median' : 'mean';
  const where = chosen.molecule === WITH_FLOOR ? `${average} over the molecules that have a floor, of models that ran on all of them`
    : chosen.molecule || `${average} over molecules`;
  const words = QUANTITIES.find(([key]) => key === chosen.quantity)[1];
  const title = `${words} against lag, ${where}, ${lagAxis}; the figures stand in the table below`;
  if (!series.some((one) => one.points.length)) {
    box.replaceChildren(make('p', { class: 'note' }, 'No line is shown here.'));
    return;
  }
  const scale = scales(series, floors, frame);
  const svg = draw('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': title, class: 'chart' });
  svg.append(axes(scale, frame));
  if (floors.length) svg.append(drawFloors(floors, scale, frame));
  // Models above the trivial predictors.
  const order = [...series].sort((a, b) => Number(Boolean(a.look.marker)) - Number(Boolean(b.look.marker)));
  for (const one of order) { const group = drawLine(one, scale, frame); if (group) svg.append(group); }
  if (isWide) svg.append(...endLabels(series, scale, frame));
  box.replaceChildren(svg);
  byId('readout').replaceWith(readout(svg, series, scale, frame));
  const clipped = chosen.quantity === 'skill' && series.some((one) => one.points.some(([, v]) => v < SKILL_FLOOR));
  byId('chart-note').textContent = `${where[0].toUpperCase()}${where.slice(1)}. Grey lines are trivial predictors and oracles.`
    + (clipped ? ` Skill below \u2212${-SKILL_FLOOR} is not drawn.` : '')
    + (chosen.quantity === 'skill' && skillNote(part) ? ` ${skillNote(part)}` : '')
    + floorNote(floors);
}

function floorNote(floors) {
  if (chosen.quantity !== 'mse') return '';
  if (floors.length) {
    return ' Below the hatched floor nothing can be predicted from a state known that well: twins, copies of a start '
      + 'displaced by as much as its label says, have parted that far.';
  }
  const known = moleculesWithFloor(currentPart());
  return known.length ? ` A predictability floor is known for ${known.join(', ')} only: choose one of them, or their mean, above.`
    : ' No predictability floor is known here.';
}

function drawFloors(floors, scale, frame) {
  const path = ({ points }) => points.map(([lag, v], i) => `${i ? 'L' : 'M'}${scale.xAt(lag).toFixed(1)} ${scale.yAt(v).toFixed(1)}`).join('');
  // The hatching ends at the lowest: starts that are known best part last.
  const lowest = floors.reduce((a, b) => (b.points.at(-1)[1] < a.points.at(-1)[1] ? b : a));
  const [first, last] = [lowest.points[0][0], lowest.points.at(-1)[0]].map((lag) => scale.xAt(lag).toFixed(1));
  const group = draw('g', { class: 'floor' },
    draw('defs', {}, draw('pattern', { id: 'hatch', width: 6, height: 6, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
      draw('line', { x1: 0, x2: 0, y1: 0, y2: 6 }))),
    draw('path', { d: `${path(lowest)}L${last} ${frame.bottom}L${first} ${frame.bottom}Z`, fill: 'url(#hatch)' }));
  for (const floor of floors) {
    const [lag, value] = floor.points[0];
    group.append(draw('path', { d: path(floor), class: 'edge' }, draw('title', {}, floor.label)),
      draw('text', { x: scale.xAt(lag) - 6, y: scale.yAt(value) + 4, 'text-anchor': 'end' }, floor.label));
  }
  return group;
}

// The numbers at the lag that the pointer is nearest to.
function readout(svg, series, scale, frame) {
  const box = make('p', { class: 'readout', id: 'readout' }, 'Point at the chart to read its numbers.');
  const rule = draw('line', { class: 'rule', y1: frame.top, y2: frame.bottom, x1: -9, x2: -9 });
  svg.append(rule);
  const lags = [...new Set(series.flatMap((one) => one.points.map(([lag]) => lag)))].sort((a, b) => a - b);
  svg.addEventListener('pointermove', (event) => {
    const x = event.clientX - svg.getBoundingClientRect().left;
    const lag = lags.reduce((a, b) => (Math.abs(scale.xAt(b) - x) < Math.abs(scale.xAt(a) - x) ? b : a));
    rule.setAttribute('x1', scale.xAt(lag));
    rule.setAttribute('x2', scale.xAt(lag));
    const values = series.map((one) => [one.line.label, (one.points.find(([at]) => at === lag) || [])[1]]).filter(([, v]) => isNumber(v));
    values.sort((a, b) => (chosen.quantity === 'skill' ? b[1] - a[1] : a[1] - b[1]));
    const show = (v) => (chosen.quantity === 'skill' ? skill(v) : error(v / PRINTED));
    box.replaceChildren(make('b', {}, fs(lag)), ...values.map(([name, v]) => make('span', {}, `${name} ${show(v)}`)));
  });
  return box;
}

function showLegend(all, floors) {
  const buttons = all.map(({ line, look }) => {
    const sample = draw('svg', { width: 34, height: 14, 'aria-hidden': 'true' },
      draw('path', { class: look.css, d: 'M1 7H33', 'stroke-dasharray': look.dash || null }));
    if (look.marker) sample.append(marker(look.marker, 17, 7, look.css));
    return make('button', {
      type: 'button', 'aria-pressed': String(!chosen.hidden.has(line.label)), title: 'Show or hide this line',
      onclick: () => {
        if (!chosen.hidden.delete(line.label)) chosen.hidden.add(line.label);
        showCurves();
        [...byId('legend').querySelectorAll('button')].find((b) => b.textContent === line.label)?.focus();
      },
    }, sample, make('span', {}, line.label));
  });
  if (floors.length) buttons.push(make('span', { class: 'key' }, make('i', { class: 'hatch' }), 'predictability floor'));
  byId('legend').replaceChildren(...buttons);
}

function showChartTable(all, floors) {
  const rows = all.map(({ line, points }) => ({ label: line.label, kind: line.kind, points }));
  rows.push(...floors);
  const lags = [...new Set(rows.flatMap((row) => row.points.map(([lag]) => lag)))].sort((a, b) => a - b);
  const at = (row, lag) => (row.points.find(([one]) => one === lag) || [])[1];
  const show = (v) => (chosen.quantity === 'skill' ? skill(v) : error(isNumber(v) ? v / PRINTED : null));
  byId('chart-table').replaceChildren(sortableTable({
    caption: QUANTITIES.find(([key]) => key === chosen.quantity)[1] + (chosen.quantity === 'skill' ? '' : ' in 10⁻² Å²'),
    region: 'Figures of the chart', sort: { key: 'model', down: false }, rows,
    columns: [
      { key: 'model', label: 'Model', text: true, value: (row) => row.label, show: (row) => row.label },
      ...lags.map((lag) => ({
        key: `lag ${lag}`, label: fs(lag), best: chosen.quantity === 'skill' ? 'high' : 'low',
        value: (row) => at(row, lag), format: show,
      })),
    ],
  }));
}
