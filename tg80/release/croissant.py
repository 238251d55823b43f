"""The description of a publication in Croissant 1.0, which data set search engines read.

Croissant has no words for the inside of an HDF5 file, so trajectories, fields and folds are record
sets whose records stand in the description itself; files carry size and SHA-256. Written by hand:
`mlcroissant`, which the tests read it with, would bring pandas and rdflib to every installation.

References:
    https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

import json
from collections.abc import Sequence
from typing import Any

from tg80.release.card import data_bibtex
from tg80.release.manifest import PublishedFile
from tg80.release.survey import Publication
from tg80.shards.fields import ALL_FIELDS, LEARNED_FIELDS
from tg80.splits.split import PARTS

CROISSANT_NAME = "croissant.json"
_MEDIA_TYPES = {
    "h5md": "application/x-hdf5",
    "json": "application/json",
    "md": "text/markdown",
    "png": "image/png",
    "sha256": "text/plain",
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
_CONTEXT: dict[str, Any] = {
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
# Name, type and description of the columns of each record set.
_Columns = Sequence[tuple[str, str, str]]
_TRAJECTORIES = (
    ("file", "sc:Text", "path of the file, its @id in the distribution"),
    ("molecule", "sc:Text", "name of the compound"),
    ("replica", "sc:Integer", "number of the trajectory of that compound"),
    ("smiles", "sc:Text", "SMILES"),
    ("inchikey", "sc:Text", "InChIKey"),
    ("level", "sc:Text", "level of theory"),
    ("ensemble", "sc:Text", "nve, bussi or langevin"),
    ("n_atoms", "sc:Integer", "number of atoms"),
    ("n_frames", "sc:Integer", "number of stored frames"),
    ("frame_fs", "sc:Float", "time between stored frames, fs"),
    ("length_fs", "sc:Float", "time from the first to the last frame, fs"),
)
_FIELDS = (
    ("name", "sc:Text", "name of the field"),
    ("path", "sc:Text", "HDF5 path in every file"),
    ("shape", "sc:Text", "sizes, comma-separated"),
    ("dtype", "sc:Text", "NumPy type, without byte order"),
    ("unit", "sc:Text", "unit on disk; empty if it has none"),
    ("description", "sc:Text", "meaning"),
)
_SPLITS = (("name", "sc:Text", "part of a fold"), ("url", "sc:URL", "what it is for"))
_FOLDS = (
    ("fold", "sc:Integer", "number of the fold"),
    ("part", "sc:Text", "part of the fold"),
    ("file", "sc:Text", "trajectory"),
)


def croissant(publication: Publication, files: Sequence[PublishedFile]) -> str:
    """The text of croissant.json.

    Args:
        publication: What is published.
        files: Every file but the trajectories, croissant.json and the manifest.
    """
    description = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": publication.name,
        "description": _summary(publication),
        "license": f"https://spdx.org/licenses/{publication.licence}.html",
        "url": publication.address("README.md"),
        "version": publication.version,
        "datePublished": publication.created,
        "creator": [{"@type": "sc:Organization", "name": author} for author in publication.authors],
        "keywords": ["molecular dynamics", "density functional theory", "machine learning"],
        "isLiveDataset": False,
        "citeAs": data_bibtex(publication),
        "distribution": [_file_object(publication, f) for f in (*publication.shards, *files)],
        "recordSet": _record_sets(publication),
    }
    return json.dumps(description, indent=1) + "\n"


def _summary(publication: Publication) -> str:
    levels = ", ".join(sorted({fact.metadata.level for fact in publication.facts}))
    compounds = len({fact.metadata.name for fact in publication.facts})
    partly = any(fact.n_evaluated < fact.metadata.n_frames for fact in publication.facts)
    which = "frame, energies and forces where the field `evaluated` says so" if partly else "frame"
    return (
        f"{len(publication.facts)} molecular dynamics trajectories of {compounds} organic compounds"
        f" in vacuum ({levels}): positions, velocities, forces, energies, dipoles and charges of"
        f" every stored {which}, one H5MD (HDF5) file a trajectory."
    )


def _file_object(publication: Publication, entry: PublishedFile) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": entry.path,
        "name": entry.path,
        "contentUrl": publication.address(entry.path),
        "contentSize": f"{entry.n_bytes} B",
        "encodingFormat": _MEDIA_TYPES[entry.path.rsplit(".", 1)[-1]],
        "sha256": entry.sha256,
    }


def _record_sets(publication: Publication) -> list[dict[str, Any]]:
    facts = publication.facts
    trajectories = [
        dict(shard) | {"file": shard.path, "n_atoms": fact.n_atoms}
        for shard, fact in zip(publication.shards, facts, strict=True)
    ]
    learned = LEARNED_FIELDS if any(f.metadata.integrator == "learned" for f in facts) else ()
    fields = [
        {
            "name": field.name,
            "path": field.dataset_path,
            "shape": ", ".join(map(str, field.shape)),
            "dtype": field.dtype,
            "unit": field.disk_unit or "",
            "description": field.description,
        }
        for field in (*ALL_FIELDS, *learned)
    ]
    made = [
        _record_set("trajectories", "The trajectories.", _TRAJECTORIES, trajectories, ["file"]),
        _record_set("fields", "What each file holds.", _FIELDS, fields, ["name"]),
    ]
    if not publication.folds:
        return made
    parts = [{"name": part, "url": _SPLIT_URLS[part]} for part in PARTS]
    splits = _record_set("splits", "Parts of every fold.", _SPLITS, parts, ["name"])
    members = [
        {"fold": fold, "part": part, "file": path}
        for fold, parts in publication.folds.items()
        for part, paths in parts.items()
        for path in paths
    ]
    folds = _record_set("folds", "Who is where.", _FOLDS, members, ["fold", "file"])
    for field, target in zip(folds["field"][1:], ("splits/name", "trajectories/file"), strict=True):
        field["references"] = {"field": {"@id": target}}
    return [*made, splits | {"dataType": "cr:Split"}, folds]


def _record_set(
    name: str, description: str, columns: _Columns, records: Sequence[dict], key: Sequence[str]
) -> dict[str, Any]:
    """A record set with its records in it; of each record what the columns name is taken."""
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
            for column, kind, text in columns
        ],
        "data": [
            {f"{name}/{column}": record[column] for column, _, _ in columns} for record in records
        ],
    }
