// Molecules down, models across.

let moleculeSort = { key: 'molecule', down: false };

function showMolecules() {
  const part = currentPart();
  const isSkill = chosen.score === 'skill';
  const scoreOf = (line, name) => (Object.hasOwn(line.molecules, name) ? line.molecules[name][chosen.score] : null);
  byId('molecule-controls').replaceChildren(switcher('Score',
    [['s2s', 'S2S'], ['s2t', 'S2T'], ['s2s_aligned', 'S2S aligned'], ['skill', 'Skill']], chosen.score,
    (value) => { chosen.score = value; showMolecules(); }));
  const best = (name) => {
    const values = part.lines.filter((l) => l.kind !== 'oracle').map((l) => scoreOf(l, name)).filter(isNumber);
    return isSkill ? Math.max(...values) : Math.min(...values);
  };
  const show = (line) => ({ name }, text) => {
    const value = scoreOf(line, name);
    const wins = isNumber(value) && line.kind !== 'oracle' && value === best(name);
    return wins ? make('strong', {}, make('span', { class: 'best' }, make('span', { 'aria-hidden': 'true' }, '▸ '), make('span', { class: 'sr' }, 'best ')), text) : text;
  };
  const columns = [
    { key: 'molecule', label: 'Molecule', text: true, value: (row) => row.name, show: moleculeButton,
      title: 'Press a molecule to see its curves.' },
    ...part.lines.map((line) => ({
      key: `of ${line.label}`, label: line.label, best: isSkill ? 'high' : 'low',
      title: `${line.label}${line.kind === 'model' ? '' : `, ${line.kind}`}`,
      value: (row) => scoreOf(line, row.name), format: isSkill ? skill : error, show: show(line),
    })),
  ];
  if (!columns.some((column) => column.key === moleculeSort.key)) moleculeSort = { key: 'molecule', down: false };
  const words = { s2s: 'S2S in 10⁻² Å²', s2t: 'S2T in 10⁻² Å²', s2s_aligned: 'S2S aligned in 10⁻² Å²', skill: 'skill at the longest lag' };
  byId('molecule-table').replaceChildren(sortableTable({
    caption: `${currentTask().task}, ${part.part}: ${words[chosen.score]}`,
    region: `Molecules of ${part.part}`,
    columns, rows: moleculesOf(part).map((name) => ({ name })),
    sort: moleculeSort, remember: (sort) => { moleculeSort = sort; },
  }));
}

function moleculeButton({ name }) {
  return make('button', {
    type: 'button', class: 'plain', 'aria-pressed': String(chosen.molecule === name),
    onclick: () => {
      chosen.molecule = chosen.molecule === name ? '' : name;
      writeAddress();
      showCurves();
      showMolecules();
      if (chosen.molecule) byId('curves').scrollIntoView();
    },
  }, name);
}
