"""The description of a publication in Croissant 1.0, which data set search engines read.

Croissant has no words for the inside of an HDF5 file, so trajectories, fields and folds are record
sets whose records stand in the description itself; files carry size and SHA-256.

References:
    https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tg80.release.citation import data_bibtex
from tg80.release.manifest import PublishedFile
from tg80.release.publication import Publication
from tg80.shards.fields import AXIS_FIELDS, FRAME_FIELDS, STATIC_FIELDS
from tg80.splits.split import PARTS

CROISSANT_NAME = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_MEDIA_TYPES = {
    ".h5md": "application/x-hdf5",
    ".json": "application/json",
    ".md": "text/markdown",
    ".png": "image/png",
    ".sha256": "text/plain",
}
_SPLIT_URLS = {
    "train": "cr:TrainingSplit",
    "val": "cr:ValidationSplit",
    "test_id": "cr:TestSplit",
    "test_ood": "cr:TestSplit",
}
# The context that the specification recommends, word for word.
_CR = (
    "citeAs column equivalentProperty extract field fileObject fileProperty fileSet format "
    "includes isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated "
    "replace samplingRate separator source subField transform"
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{word: f"cr:{word}" for word in _CR.split()},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}


def croissant(publication: Publication, files: Iterable[PublishedFile]) -> str:
    """The text of croissant.json.

    Args:
        publication: what is published.
        files: every file of it but this one and the manifest.
    """
    record_sets = [_trajectories(publication), _fields()]
    if publication.folds:
        record_sets += [_splits(), _folds(publication)]
    description = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": publication.name,
        "description": _summary(publication),
        "license": f"https://spdx.org/licenses/{publication.licence}.html",
        "url": publication.address("README.md"),
        "version": publication.version,
        "datePublished": publication.created,
        "creator": [
            {"@type": "sc:Organization", "name": author} for author in publication.authors
        ],
        "keywords": ["molecular dynamics", "density functional theory", "machine learning"],
        "isLiveDataset": False,
        "citeAs": data_bibtex(
            publication.name, publication.version, publication.authors, publication.created,
            publication.url,
        ),
        "distribution": [_file_object(publication, entry) for entry in files],
        "recordSet": record_sets,
    }  # fmt: skip
    return json.dumps(description, indent=1) + "\n"


def _summary(publication: Publication) -> str:
    levels = ", ".join(sorted({fact.metadata.level for fact in publication.facts}))
    compounds = len({fact.metadata.name for fact in publication.facts})
    return (
        f"{len(publication.facts)} molecular dynamics trajectories of {compounds} organic compounds"
        f" in vacuum ({levels}): positions, velocities, forces, energies, dipoles and charges of"
        " every stored frame, one H5MD (HDF5) file a trajectory."
    )


def _file_object(publication: Publication, entry: PublishedFile) -> dict[str, Any]:
    suffix = "." + entry.path.rsplit(".", 1)[-1]
    return {
        "@type": "cr:FileObject",
        "@id": entry.path,
        "name": entry.path,
        "contentUrl": publication.address(entry.path),
        "contentSize": f"{entry.n_bytes} B",
        "encodingFormat": _MEDIA_TYPES[suffix],
        "sha256": entry.sha256,
    }


def _trajectories(publication: Publication) -> dict[str, Any]:
    columns = {
        "file": ("sc:Text", "path of the file, its @id in the distribution"),
        "molecule": ("sc:Text", "name of the compound"),
        "replica": ("sc:Integer", "number of the trajectory of that compound"),
        "smiles": ("sc:Text", "SMILES"),
        "inchikey": ("sc:Text", "InChIKey"),
        "level": ("sc:Text", "level of theory"),
        "ensemble": ("sc:Text", "nve, bussi or langevin"),
        "n_atoms": ("sc:Integer", "number of atoms"),
        "n_frames": ("sc:Integer", "number of stored frames"),
        "frame_fs": ("sc:Float", "time between stored frames, fs"),
        "length_fs": ("sc:Float", "time from the first to the last frame, fs"),
    }
    records = []
    for fact in publication.facts:
        known = fact.metadata
        records.append(
            {
                "file": publication.shard_path(fact), "molecule": known.name,
                "replica": known.replica, "smiles": known.smiles, "inchikey": known.inchikey,
                "level": known.level, "ensemble": known.ensemble, "n_atoms": fact.n_atoms,
                "n_frames": known.n_frames, "frame_fs": known.store_every_fs,
                "length_fs": known.length_fs,
            }
        )  # fmt: skip
    return _record_set("trajectories", "The trajectories.", columns, records, ["file"])


def _fields() -> dict[str, Any]:
    columns = {
        "name": ("sc:Text", "name of the field"),
        "path": ("sc:Text", "HDF5 path in every file"),
        "shape": ("sc:Text", "sizes, comma-separated"),
        "dtype": ("sc:Text", "NumPy type, without byte order"),
        "unit": ("sc:Text", "unit on disk; empty if it has none"),
        "description": ("sc:Text", "meaning"),
    }
    records = [
        {
            "name": field.name,
            "path": f"{field.path}/value" if field in FRAME_FIELDS else field.path,
            "shape": ", ".join(map(str, field.shape)),
            "dtype": field.dtype,
            "unit": field.disk_unit or "",
            "description": field.description,
        }
        for field in (*FRAME_FIELDS, *AXIS_FIELDS, *STATIC_FIELDS)
    ]
    return _record_set("fields", "What each file holds.", columns, records, ["name"])


def _splits() -> dict[str, Any]:
    columns = {"name": ("sc:Text", "part of a fold"), "url": ("sc:URL", "what it is for")}
    records = [{"name": part, "url": _SPLIT_URLS[part]} for part in PARTS]
    made = _record_set("splits", "Parts of every fold.", columns, records, ["name"])
    return made | {"dataType": "cr:Split"}


def _folds(publication: Publication) -> dict[str, Any]:
    columns = {
        "fold": ("sc:Integer", "number of the fold"),
        "part": ("sc:Text", "part of the fold"),
        "file": ("sc:Text", "trajectory"),
    }
    records = [
        {"fold": fold, "part": part, "file": path}
        for fold, parts in publication.folds.items()
        for part, paths in parts.items()
        for path in paths
    ]
    made = _record_set("folds", "Who is where.", columns, records, ["fold", "file"])
    for field, target in ((made["field"][1], "splits/name"), (made["field"][2], _FILE)):
        field["references"] = {"field": {"@id": target}}
    return made


_FILE = "trajectories/file"


def _record_set(
    name: str,
    description: str,
    columns: Mapping[str, tuple[str, str]],
    records: Sequence[Mapping[str, Any]],
    key: Sequence[str],
) -> dict[str, Any]:
    """A record set with its records in it; `columns`: type and description by name."""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "key": [{"@id": f"{name}/{column}"} for column in key],
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "description": text,
                "dataType": kind,
            }
            for column, (kind, text) in columns.items()
        ],
        "data": [{f"{name}/{k}": value for k, value in record.items()} for record in records],
    }
