// The choice of task, track, fold and part, and all that follows from it.

function showControls() {
  const tasks = [...new Set(data.tasks.map((one) => one.task))];
  const task = currentTask();
  const tracks = data.tasks.filter((one) => one.task === task.task).map((one) => one.track);
  const goTo = (name, track) => {
    const found = data.tasks.findIndex((one) => one.task === name && one.track === track);
    chosen.task = found >= 0 ? found : data.tasks.findIndex((one) => one.task === name);
    Object.assign(chosen, { fold: '', molecule: '' });
    showAll();
  };
  const fields = [selector('Task', tasks.map((name) => [name, name]), task.task, (name) => goTo(name, task.track))];
  if (tracks.length > 1) fields.push(selector('Track', tracks.map((t) => [t, t]), task.track, (t) => goTo(task.task, t)));
  if (task.folds.length > 1) {
    fields.push(selector('Fold', task.folds.map(({ fold }) => [fold, fold === 'all' || fold.includes(',') ? `${fold}, mean` : fold]), currentFold().fold,
      (fold) => { chosen.fold = fold; showAll(); }));
  }
  fields.push(switcher('Part', currentFold().parts.map(({ part }) => [part, part]), currentPart().part,
    (part) => { chosen.part = part; showAll(); focusPart(part); }));
  byId('controls').replaceChildren(...fields);
  const lags = task.lags_fs.length ? ` S2T is over lags of ${task.lags_fs.map((lag) => Number(lag.toPrecision(4))).join(', ')} fs; S2S is at the last.` : '';
  byId('task').replaceChildren(make('b', {}, task.task), task.leaks ? ' (as published: with leaks)' : '', `, ${task.track} track: ${task.description}.${lags}`);
}

function focusPart(part) {
  [...byId('controls').querySelectorAll('button')].find((b) => b.dataset.value === part)?.focus();
}

function showAll() {
  chosen.part = currentPart().part;
  writeAddress();
  showControls();
  showBoard();
  showCurves();
  showPareto();
  showMolecules();
  showMovie();
}

byId('controls').addEventListener('submit', (event) => event.preventDefault());

if (data.tasks.length) {
  chosen.part = 'test_time';
  readAddress();
  showAll();
  let width = byId('chart').clientWidth;
  new ResizeObserver(() => {
    if (byId('chart').clientWidth !== width) { width = byId('chart').clientWidth; showCurves(); showPareto(); }
  }).observe(byId('chart'));
} else {
  for (const id of ['board', 'curves', 'pareto', 'molecules', 'movie']) byId(id).hidden = true;
}
