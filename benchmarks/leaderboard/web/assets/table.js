// A table that sorts by its headings: real buttons, so that a keyboard reaches them.

// columns: { key, label, title, value(row), text: sorts as text, best: 'high' if large is good,
//            format(value) -> text, padded so that decimal points stand below each other,
//            show(row, formatted) -> text or node, where it is more than that }
function sortableTable({ caption, columns, rows, sort, remember, region }) {
  const state = { key: sort.key, down: sort.down };
  const head = make('tr');
  const body = make('tbody');
  const padded = columns.map((column) => column.format && padding(rows.map((row) => column.format(column.value(row)))));
  const content = (column, i, row) => {
    const text = column.format ? padded[i](column.format(column.value(row))) : undefined;
    return column.show ? column.show(row, text) : text;
  };
  const buttons = new Map();
  for (const column of columns) {
    const press = () => {
      if (state.key === column.key) state.down = !state.down;
      else Object.assign(state, { key: column.key, down: column.best === 'high' });
      if (remember) remember({ ...state });
      refresh();
      const order = state.down ? 'from large to small' : 'from small to large';
      byId('live').textContent = `Sorted by ${column.name || column.label}, ${order}.`;
    };
    const arrow = make('span', { class: 'arrow', 'aria-hidden': 'true' });
    const words = make('span', {}, column.label);
    const button = make('button', { type: 'button', title: column.title, onclick: press },
      ...(column.text ? [words, arrow] : [arrow, words]));
    const cell = make('th', { scope: 'col', 'data-key': column.key, class: column.text ? 'text' : null }, button);
    buttons.set(column.key, cell);
    head.append(cell);
  }

  function refresh() {
    const column = columns.find((one) => one.key === state.key) || columns[0];
    const sorted = [...rows].sort((a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      // What has no number stands last, whichever way the table is turned.
      const missing = (v) => (column.text ? false : !isNumber(v));
      if (missing(x) || missing(y)) return Number(missing(x)) - Number(missing(y));
      const order = column.text ? String(x).localeCompare(String(y), 'en', { numeric: true }) : x - y;
      return state.down ? -order : order;
    });
    for (const [key, cell] of buttons) {
      if (key === state.key) cell.setAttribute('aria-sort', state.down ? 'descending' : 'ascending');
      else cell.removeAttribute('aria-sort');
      cell.querySelector('.arrow').textContent = key === state.key ? (state.down ? '▼' : '▲') : '';
    }
    body.replaceChildren(...sorted.map((row) => make('tr', { class: row.kind ? `row-${row.kind}` : null },
      ...columns.map((one, i) => (i === 0
        ? make('th', { scope: 'row' }, content(one, i, row))
        : make('td', { class: one.text ? 'text' : null }, content(one, i, row)))))));
  }

  refresh();
  return make('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': region },
    make('table', {}, make('caption', {}, caption), make('thead', {}, head), body));
}

// Fills numbers up with spaces of a digit's width, to the longest fraction of their column.
function padding(texts) {
  const fraction = (text) => (/^[^.]*\d\.?\d*$/.test(text) ? text.length - (text.indexOf('.') + 1 || text.length) : 0);
  const most = Math.max(0, ...texts.map(fraction));
  return (text) => {
    const point = most && !text.includes('.') ? '\u2008' : '';
    return text + point + '\u2007'.repeat(most - fraction(text));
  };
}

function nameCell(line) {
  return make('span', { class: 'who' }, make('span', { class: 'name' }, line.label), badge(line.kind));
}

function links(line) {
  const box = make('span', { class: 'links' });
  for (const [name, file] of line.records) box.append(make('a', { href: file }, name));
  return box;
}

const number = (key) => (line) => line[key];
const of = (group, key) => (line) => line[group][key];

const COLUMNS = [
  { key: 'model', label: 'Model', text: true, value: number('label'), show: nameCell,
    title: 'Name of the model; a hash in brackets tells its settings apart.' },
  { key: 's2t', label: 'S2T', value: number('s2t'), format: error,
    title: 'State to trajectory: mean squared error over all lags, mean over molecules; 10⁻² Å².' },
  { key: 's2s', label: 'S2S', value: number('s2s'), format: error,
    title: 'State to state: mean squared error at the longest lag, mean over molecules; 10⁻² Å².' },
  { key: 's2s_spread', label: '± over seeds', value: number('s2s_spread'), format: error, optional: true,
    title: 'Twice the standard deviation of S2S over seeds: how much training varies, not whether two models differ.' },
  { key: 's2t_aligned', label: 'S2T aligned', value: number('s2t_aligned'), format: error,
    title: 'S2T after centroids are removed and each step is turned onto the truth: the error of shape alone.' },
  { key: 's2s_aligned', label: 'S2S aligned', value: number('s2s_aligned'), format: error,
    title: 'S2S of shape alone, as S2T aligned.' },
  { key: 'skill', label: 'Skill', best: 'high', value: number('skill'), format: skill,
    title: '1 − error / error of the reference, a trivial predictor, at the longest lag; median over molecules. '
      + '0 is the reference, 1 is perfect.' },
  { key: 'n_failed', label: 'Failed', value: (l) => (l.n ? l.n_failed / l.n : null), show: (l) => `${l.n_failed}/${l.n}`,
    title: 'Windows whose prediction failed, of all. They are scored as persistence.' },
  { key: 'folds', label: 'Folds', text: true, value: (l) => l.folds.join(','), show: (l) => plain(l.folds.join(', ')),
    title: 'Folds of the split that the row is the mean of.' },
  { key: 'seeds', label: 'Seeds', value: number('seeds'), show: (l) => plain(l.seeds),
    title: 'Trainings from different random numbers that the row is the mean of.' },
  { key: 'valid', label: 'Valid, %', best: 'high', optional: true, value: of('quality', 'valid'), format: percent,
    title: 'Predicted structures whose bond lengths and angles, among scored atoms, all lie in the 0.1–99.9 % range of the data.' },
  { key: 'bond_distance', label: 'Bonds off, Å', optional: true, value: of('quality', 'bond_distance'), format: figure,
    title: 'Distance between the predicted and the true distribution of bond lengths (Wasserstein-1), mean over bonds.' },
  { key: 'robustness', label: 'Turned / stored', optional: true, value: of('quality', 'robustness'), format: figure,
    title: 'S2S of turned windows over that of the same windows as stored. 1 for models that follow every rotation; '
      + 'far above, a model knows the laboratory frame.' },
  { key: 'inputs', label: 'Inputs', text: true, optional: true, value: of('costs', 'inputs'), show: (l) => plain(l.costs.inputs),
    title: 'What a prediction is made from.' },
  { key: 'labels', label: 'Learnt from', text: true, optional: true, value: of('costs', 'labels'), show: (l) => plain(l.costs.labels),
    title: 'Labels used in training: positions, or energies and forces.' },
  { key: 'n_samples', label: 'Samples', optional: true, value: of('costs', 'n_samples'), format: figure,
    title: 'Windows or labelled frames learnt from, repetitions counted; mean over runs.' },
  { key: 'training_seconds', label: 'Training, s', optional: true, value: of('costs', 'training_seconds'), format: figure,
    title: 'CPU seconds of training a run (wall time on a GPU).' },
  { key: 'prediction_seconds', label: 'Predicting, s', optional: true, value: of('costs', 'prediction_seconds'), format: figure,
    title: 'CPU seconds of predicting all windows of all parts in a run (wall time on a GPU).' },
  { key: 'seconds_per_trajectory', label: 's / trajectory', optional: true, value: of('costs', 'seconds_per_trajectory'), format: figure,
    title: 'The same for one window: all lags from one start.' },
  { key: 'records', label: 'Records', value: (l) => l.records.length, show: links,
    title: 'The records behind the row, one a run: rows, settings, versions and hashes as JSON.' },
];

let boardSort = { key: 's2s', down: false };

function showBoard() {
  const task = currentTask();
  const part = currentPart();
  const present = (column) => !column.optional || part.lines.some((l) => column.value(l) !== null && column.value(l) !== undefined);
  const columns = COLUMNS.filter(present);
  byId('board-table').replaceChildren(sortableTable({
    caption: `${task.task}, ${task.track}, ${part.part}: errors in 10⁻² Å²`,
    region: `Table of ${task.task}, ${part.part}`,
    columns, rows: part.lines, sort: boardSort, remember: (sort) => { boardSort = sort; },
  }));
  const warnings = part.notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`);
  byId('board-note').textContent = [...warnings, skillNote(part)].filter(Boolean).join(' ');
  byId('board-note').className = warnings.length ? 'note' : 'hint';
  byId('board-note').hidden = !byId('board-note').textContent;
  byId('columns').replaceChildren(...columns.flatMap((c) => [make('dt', {}, c.label), make('dd', {}, c.title)]));
}
