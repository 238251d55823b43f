// The true and a predicted trajectory of one window, lag by lag. The truth is filled and solid, the
// prediction outlined and dashed.

const FRAME_MS = 600;
const RADII = { H: 0.16, other: 0.28 };
const movie = { timer: null, frame: 0, turn: [0, 0], case: 0, model: '' };

function stopMovie() {
  clearInterval(movie.timer);
  movie.timer = null;
  const button = byId('movie-play');
  if (button) button.textContent = '▶ Play';
}

function lineOf(prediction, lines) {
  return lines.find((line) => line.model === prediction.model && line.settings === prediction.settings);
}

function showMovie() {
  stopMovie();
  const part = currentPart();
  const { cases, fold } = currentTask().movies;
  const own = cases.filter((one) => one.part === part.part && one.predictions.length);
  if (!own.length) {
    byId('movie-box').replaceChildren(make('p', { class: 'note' }, `No run of ${part.part} has kept examples.`));
    return;
  }
  movie.case = Math.min(movie.case, own.length - 1);
  const shown = own[movie.case];
  const names = shown.predictions.map((p) => lineOf(p, part.lines)?.label || p.model);
  const learnt = shown.predictions.findIndex((p) => ['model', 'submitted'].includes(lineOf(p, part.lines)?.kind));
  if (!names.includes(movie.model)) movie.model = names[Math.max(0, learnt)];
  const prediction = shown.predictions[names.indexOf(movie.model)];
  const frames = [shown.start, ...shown.truth];
  movie.frame = Math.min(movie.frame, frames.length - 1);
  const svg = draw('svg', { viewBox: '-220 -150 440 300', role: 'img', class: 'movie', tabindex: '0' });
  const slider = make('input', {
    type: 'range', min: 0, max: frames.length - 1, step: 1, value: movie.frame, 'aria-label': 'Lag', id: 'movie-lag',
    oninput: () => { stopMovie(); movie.frame = Number(slider.value); paint(); },
  });
  const caption = make('p', { class: 'movie-caption', id: 'movie-caption' });

  function paint() {
    slider.value = movie.frame;
    const lag = movie.frame ? shown.lags_fs[movie.frame - 1] : 0;
    slider.setAttribute('aria-valuetext', fs(lag));
    const predicted = movie.frame ? prediction.positions[movie.frame - 1] : shown.scored.map((i) => shown.start[i]);
    paintMolecule(svg, shown, frames[movie.frame], predicted, prediction.failed);
    svg.setAttribute('aria-label', `${shown.molecule} at ${fs(lag)}: true positions, and those predicted by ${movie.model}`);
    const text = prediction.failed ? 'the prediction failed, and is scored as persistence'
      : movie.frame ? `error ${error(windowError(shown, frames[movie.frame], predicted))} × 10⁻² Å²` : 'the start, given to the model';
    caption.replaceChildren(make('b', {}, fs(lag)), ` · ${text}`);
  }

  function play() {
    if (movie.timer) { stopMovie(); return; }
    byId('movie-play').textContent = '❚❚ Pause';
    movie.timer = setInterval(() => { movie.frame = (movie.frame + 1) % frames.length; paint(); }, FRAME_MS);
  }

  turning(svg, paint);
  byId('movie-box').replaceChildren(
    make('div', { class: 'controls' },
      selector('Case', own.map((one, i) => [String(i), one.start_id]), String(movie.case),
        (value) => { movie.case = Number(value); movie.frame = 0; showMovie(); }),
      selector('Prediction of', names.map((name) => [name, name]), movie.model,
        (value) => { movie.model = value; showMovie(); })),
    make('figure', { class: 'movie-figure' }, svg,
      make('div', { class: 'player' },
        make('button', { type: 'button', id: 'movie-play', onclick: play }, '▶ Play'), slider),
      caption,
      make('figcaption', {}, make('span', { class: 'key' }, make('i', { class: 'disc' }), 'true'),
        make('span', { class: 'key' }, make('i', { class: 'ring' }), `predicted${prediction.seed === null ? '' : `, seed ${prediction.seed}`}`),
        make('span', { class: 'key' }, make('i', { class: 'small' }), 'hydrogen, true'),
        make('span', {}, `Fold ${fold}. Drag, or use the arrow keys, to turn the molecule.`))));
  paint();
}

function windowError(shown, truth, predicted) {
  let sum = 0;
  shown.scored.forEach((atom, i) => { for (const k of [0, 1, 2]) sum += ((predicted[i][k] - truth[atom][k]) / 100) ** 2; });
  return sum / (3 * shown.scored.length);
}

// Turned by the two angles of the view.
function turned(positions) {
  const [a, b] = movie.turn;
  const [ca, sa, cb, sb] = [Math.cos(a), Math.sin(a), Math.cos(b), Math.sin(b)];
  return positions.map(([x, y, z]) => {
    const [u, w] = [ca * x + sa * z, -sa * x + ca * z];
    return [u, cb * y - sb * w, sb * y + cb * w];
  });
}

function paintMolecule(svg, shown, truthRaw, predictedRaw, failed) {
  const reach = Math.max(100, ...shown.start.map((p) => Math.hypot(...p))) * 1.25;
  const scale = 145 / reach;
  const truth = turned(truthRaw);
  const predicted = turned(predictedRaw);
  const at = ([x, y]) => [(x * scale).toFixed(1), (-y * scale).toFixed(1)];
  const size = (symbol) => (symbol === 'H' ? RADII.H : RADII.other) * 100 * scale;
  const bond = (p, q, css) => { const [[x1, y1], [x2, y2]] = [at(p), at(q)]; return draw('line', { x1, y1, x2, y2, class: css }); };
  // Bonds lie below atoms, letters above everything.
  const bonds = shown.bonds.map(([i, j]) => bond(truth[i], truth[j], 'true'));
  const order = truth.map((_, i) => i).sort((i, j) => truth[i][2] - truth[j][2]);
  const letters = [];
  const atoms = order.map((i) => {
    const [cx, cy] = at(truth[i]);
    const symbol = shown.symbols[i];
    if (symbol !== 'H') letters.push(draw('text', { x: cx, y: Number(cy) + 4, class: 'symbol' }, symbol));
    return draw('circle', { cx, cy, r: size(symbol).toFixed(1), class: `true${shown.scored.includes(i) ? '' : ' unscored'}` });
  });
  const ghost = draw('g', { class: 'predicted' });
  if (!failed) {
    const place = new Map(shown.scored.map((atom, i) => [atom, predicted[i]]));
    for (const [i, j] of shown.bonds) if (place.has(i) && place.has(j)) ghost.append(bond(place.get(i), place.get(j), ''));
    for (const [atom, p] of place) {
      const [cx, cy] = at(p);
      ghost.append(draw('circle', { cx, cy, r: (size(shown.symbols[atom]) + 2.5).toFixed(1) }));
    }
  }
  svg.replaceChildren(draw('g', {}, ...bonds, ...atoms), ghost, draw('g', {}, ...letters));
}

function turning(svg, paint) {
  let last = null;
  const move = (dx, dy) => { movie.turn = [movie.turn[0] + dx, movie.turn[1] + dy]; paint(); };
  svg.addEventListener('pointerdown', (event) => { last = [event.clientX, event.clientY]; svg.setPointerCapture(event.pointerId); });
  svg.addEventListener('pointermove', (event) => {
    if (!last) return;
    move((event.clientX - last[0]) / 90, (event.clientY - last[1]) / 90);
    last = [event.clientX, event.clientY];
  });
  for (const name of ['pointerup', 'pointercancel']) svg.addEventListener(name, () => { last = null; });
  svg.addEventListener('keydown', (event) => {
    const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[event.key];
    if (step) { event.preventDefault(); move(...step); }
  });
}
