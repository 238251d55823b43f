"""A figure of the structural formulas of a split, a block of rows for each cluster."""

from html import escape
from pathlib import Path

from tg80.errors import UserError
from tg80.files import write_atomically
from tg80.splits.split import Split

_A_ROW = 9
_CELL = (130, 120)


def check_structures_path(path: Path) -> None:
    """Refuse a file that no structures can be written to."""
    if path.suffix.lower() != ".svg":
        raise UserError(f"{path}: structures are drawn as .svg")


def draw_structures(split: Split, path: Path) -> None:
    """Draw the compounds of a split as an SVG file, by cluster and by size.

    Raises:
        Tg80Error: The file cannot be written.
    """
    from rdkit import Chem
    from rdkit.Chem.Draw import MolDraw2DSVG

    cells: list[str] = []  # names, "" for an empty cell
    headings: dict[int, str] = {}  # by row
    for number in sorted(set(split.clusters.values())):
        members = [name for name, cluster in split.clusters.items() if cluster == number]
        members.sort(key=lambda name: (split.molecules[name].n_atoms, name))
        fold = next((f.index for f in split.folds if number in f.ood_clusters), None)
        headings[len(cells) // _A_ROW] = f"cluster {number}" + (f", fold {fold}" if fold else "")
        cells += members + [""] * (-len(members) % _A_ROW)
    width, height = _CELL
    drawer = MolDraw2DSVG(
        width * _A_ROW, height * (len(cells) // _A_ROW), width, height, noFreetype=True
    )
    drawer.drawOptions().fixedBondLength = 17
    drawer.drawOptions().legendFraction = 0.2  # room for the names, which RDKit sets badly
    smiles = [split.molecules[name].smiles if name else "" for name in cells]
    drawer.DrawMolecules([Chem.MolFromSmiles(each) for each in smiles], legends=[" "] * len(cells))
    drawer.FinishDrawing()
    texts = ["<g font-family='sans-serif' font-size='12'>"]
    for i, name in enumerate(cells):
        x, y = width * (i % _A_ROW + 0.5), height * (i // _A_ROW + 1) - 8
        texts.append(f"<text x='{x}' y='{y}' text-anchor='middle'>{escape(name)}</text>")
    for row, text in headings.items():
        y = height * row
        texts.append(f"<path d='M 0 {y} H {width * _A_ROW}' stroke='#bbbbbb'/>")
        texts.append(f"<text x='4' y='{y + 14}' font-weight='bold'>{text}</text>")
    drawn, end, _ = drawer.GetDrawingText().rpartition("</svg>")
    write_atomically(path, "\n".join([drawn.rstrip(), *texts, "</g>", end, ""]).encode())
