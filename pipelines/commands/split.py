"""`tg80 split`: makes a cluster-level split, or proves one leak-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import SkipBadOption, StereoOption
from tg80.console import JsonOption, Table, print_tables
from tg80.dataset import molecules_of
from tg80.errors import UserError
from tg80.files import write_atomically
from tg80.shards.shard import Shard, find_shards
from tg80.splits.split import HELD_PARTS, PARTS, TG80_VERSION, Split, load_split
from tg80.untrusted.documents import print_json

if TYPE_CHECKING:
    from tg80.chemistry.lists import MoleculeList
    from tg80.chemistry.molecule import Molecule
    from tg80.splits.certificate import Certificate, Recomputation
    from tg80.splits.extra import ExtraCheck

CHECK_HELP = "Prove a split: a version such as tg80-v1 (the default) or a file."


def split(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[NAME_OR_FILE]", help="With --check: the split to prove."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help=CHECK_HELP)] = False,
    molecule_list: Annotated[
        str | None,
        typer.Option(
            help="SMILES list (.smi or CSV), '-' for standard input, 'tg80' for the 80, 'extra-v1'."
        ),
    ] = None,
    stereo: StereoOption = "given",
    skip_bad: SkipBadOption = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder (or file) of shards: split their molecules; with --check: prove that each"
            " is in the part of its compound."
        ),
    ] = None,
    restrict: Annotated[
        str | None,
        typer.Option(help="Don't cluster: restrict this split (tg80-v1 or a file) to the list."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the split to this JSON file.")] = None,
    extra: Annotated[
        str | None,
        typer.Option(
            help="With --check: a list of further training compounds, such as extra-v1; prove which"
            " of them each fold may learn from."
        ),
    ] = None,
    recompute: Annotated[
        bool, typer.Option(help="With --check: cluster again and report the agreement.")
    ] = True,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the clusters on their UMAP map (a minute)."),
    ] = None,
    structures: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw the structural formulas by cluster."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Split molecules by clusters, or prove that a split does not leak.

    ECFP-4, UMAP and agglomerative clustering give 10 clusters (5 for lists under 80), dealt into 5
    folds; each cluster is out of distribution exactly once. --check exits with 1 if a rule is
    broken. With --skip-bad, the JSON document also lists the rows `left_out`.

    Example: tg80 split --molecule-list compounds.smi --out split.json

    Example: tg80 split --data runs/mine --restrict tg80-v1 --out split.json

    Example: tg80 split --check tg80-v1 --plot clusters.png

    Example: tg80 split --check tg80-v1 --data tg80-data

    Example: tg80 split --check tg80-v1 --extra extra-v1
    """
    # RDKit waits until it is needed: `tg80 --help` does without.
    from pipelines.commands.molecules import listed_molecules
    from tg80.chemistry.lists import MoleculeList
    from tg80.splits.plot import check_plot_path, plot_clusters
    from tg80.splits.structures import check_structures_path, draw_structures

    if plot is not None:
        check_plot_path(plot)
        _check_free("--plot", plot, force)
    if structures is not None:
        check_structures_path(structures)
        _check_free("--structures", structures, force)
    if out is not None:
        _check_free("--out", out, force)
    if check:
        if molecule_list or out or restrict or skip_bad or stereo != "given":
            raise UserError(
                "--check takes a split, not --molecule-list, --restrict, --out or their options"
            )
        certificate, extra_holds = _check(target or TG80_VERSION, data, recompute, extra, as_json)
    else:
        extra_holds = True
        if extra is not None:
            raise UserError("--extra goes with --check")
        if target is not None:
            raise UserError(f"what to do with {target}? `tg80 split --check {target}` proves it")
        if data is None and molecule_list is not None:
            listed = listed_molecules(molecule_list, stereo, skip_bad)
        elif data is not None and molecule_list is None:
            listed = MoleculeList(str(data), list(molecules_of(_shards_in(data)).values()))
        else:
            raise UserError("give one of --molecule-list FILE, --data DIR or --check")
        certificate = _make(listed, restrict, out, as_json, skip_bad)
    if not (certificate.holds and extra_holds):
        raise typer.Exit(1)
    if structures is not None:
        draw_structures(certificate.split, structures)
        if not as_json:
            print(f"structures written to {structures}")
    if plot is not None:
        equal = plot_clusters(certificate.split, plot)
        if not as_json:
            print(f"map written to {plot}; clusters found on it: {'equal' if equal else 'differ'}")


def _check_free(option: str, path: Path, force: bool) -> None:
    """Refuse a file that cannot be written, or that is there already."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: its folder does not exist; make it first")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; {option} wants a file")
    if path.exists() and not force:
        raise UserError(f"{path}: exists already; choose another {option} or give --force")


def _make(
    listed: MoleculeList,
    restrict: str | None,
    out: Path | None,
    as_json: bool,
    skip_bad: bool,
) -> Certificate:
    from tg80.splits.certificate import check_split
    from tg80.splits.folds import make_split

    molecules = listed.molecules
    made = _restricted(restrict, molecules) if restrict else make_split(molecules)
    certificate = check_split(made)
    text = made.to_json()
    written = out is not None and certificate.holds
    if out is not None and written:
        write_atomically(out, text.encode())
    if as_json and skip_bad:
        print_json(json.loads(text) | {"left_out": listed.left_out_records()}, indent=1)
    elif as_json:
        print(text, end="")
    else:
        _print_certificate(certificate)
        if written:
            print(f"written to {out}")
    return certificate


def _check(
    target: str, data: Path | None, recompute: bool, extra: str | None, as_json: bool
) -> tuple[Certificate, bool]:
    """The certificate, and whether the further compounds can be used."""
    from tg80.chemistry.lists import read_list
    from tg80.splits.certificate import check_split
    from tg80.splits.extra import check_extra

    further = None if extra is None else read_list(extra).molecules
    trajectories = [] if data is None else [shard.metadata for shard in _shards_in(data)]
    certificate = check_split(load_split(target), recompute=recompute, trajectories=trajectories)
    found = None if further is None else check_extra(certificate.split, further)
    if as_json:
        more = {} if found is None else {"extra": found.to_dict()}
        print_json(certificate.to_dict() | more, indent=1)
    else:
        _print_certificate(certificate)
        if recompute and (whole := certificate.split.subset_of):
            print(f"recomputation: not done for a restriction; check {whole}")
        if found is not None:
            _print_extra(found)
    return certificate, found is None or not found.problems


def _print_extra(found: ExtraCheck) -> None:
    rows = [[str(f.fold), str(len(f.allowed)), str(len(f.too_near))] for f in found.folds]
    print_tables([Table("further training compounds", ["fold", "allowed", "too near"], rows)])
    for problem in found.problems:
        print(f"BROKEN  {problem}")


def _restricted(source: str, molecules: list[Molecule]) -> Split:
    """Restrict a frozen split to compounds, found by InChIKey whatever their names."""
    frozen = load_split(source)
    name_of = {compound.inchikey: name for name, compound in frozen.molecules.items()}
    unknown = sorted(m.name for m in molecules if m.inchikey not in name_of)
    if unknown:
        raise UserError(
            f"split {frozen.version} has no {', '.join(unknown)}; leave --restrict out to make a "
            "split of your own"
        )
    return frozen.restrict(name_of[m.inchikey] for m in molecules)


def _shards_in(data: Path) -> list[Shard]:
    """The shards of a folder, what they say about themselves read and the files closed."""
    shards = []
    for path in find_shards(data):
        with Shard(path) as shard:
            _ = shard.metadata
        shards.append(shard)
    return shards


def _print_certificate(certificate: Certificate) -> None:
    checked = certificate.split
    n_clusters = len(set(checked.clusters.values()))
    print(f"split {checked.version}, sha256 {checked.sha256}")
    print(
        f"{len(checked.molecules)} compounds in {n_clusters} clusters, {len(checked.folds)} folds; "
        f"UMAP seed {checked.umap_seed}"
    )
    if certificate.folds:
        print_tables([_fold_table(certificate)])
        _print_similarity(certificate)
    for fold in checked.folds:
        for dropped in fold.dropped:
            print(f"fold {fold.index}: {dropped.name} left out of {dropped.part}: {dropped.reason}")
    for rule in certificate.rules:
        print(f"{'ok    ' if rule.holds else 'BROKEN'}  {rule.name}")
        for problem in rule.problems:
            print(f"          {problem}")
    if certificate.recomputation is not None:
        _print_recomputation(certificate.recomputation)
    print("leak-free" if certificate.holds else "NOT leak-free: see BROKEN above")


def _fold_table(certificate: Certificate) -> Table:
    """One row a fold; `leaks` counts InChIKey connectivity blocks that stand in two parts."""
    title = "compounds in each part; ~ mean Tanimoto to the nearest training compound"
    heading = ("fold", "held", *PARTS, "id~", "ood~", "leaks", "elements")
    rows = []
    for figures in certificate.folds:
        similarity, elements = figures.nearest_train_tanimoto, figures.elements
        missing = set().union(*(elements[part] for part in HELD_PARTS)) - set(elements["train"])
        near = [similarity.get(part) for part in ("test_id", "test_ood")]
        rows.append([
            str(figures.fold),
            " ".join(map(str, figures.ood_clusters)),
            *(str(figures.n[part]) for part in PARTS),
            *("-" if found is None else f"{found.mean:.2f}" for found in near),
            str(figures.connectivity_blocks_in_two_parts),
            f"lacks {' '.join(sorted(missing))}" if missing else " ".join(elements["train"]),
        ])  # fmt: skip
    return Table(title, heading, rows)


def _print_similarity(certificate: Certificate) -> None:
    ood, seen = certificate.mean_similarity("test_ood"), certificate.mean_similarity("test_id")
    random = certificate.random_similarity
    if ood is not None and seen is not None and random is not None:
        print(
            f"nearest training compound, Tanimoto: test_ood {ood:.3f}, test_id {seen:.3f}, random "
            f"molecule splits {random.mean:.3f} (sd {random.sd:.3f}, {random.n_splits} splits of "
            "the same sizes)"
        )


def _print_recomputation(found: Recomputation) -> None:
    clusters = "clusters equal"
    if not found.clusters_equal:
        clusters = f"clusters differ, adjusted Rand index {found.adjusted_rand_index:.3f} (the "
        clusters += "frozen file is the authority)"
    print(f"recomputation with the libraries installed: {clusters}")
    print(f"recomputed deal: folds {'equal' if found.folds_equal else 'differ'}")
    changed = found.library_versions_changed.items()
    if versions := ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed):
        print(f"library versions since the freeze: {versions}")
