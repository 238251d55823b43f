"""What is known of the public sets: molecules, frame spacing with its source, addresses.

References:
    MD17: S. Chmiela et al. 2017, doi:10.1126/sciadv.1603015. rMD17: A. S. Christensen, O. A. von
    Lilienfeld 2020, doi:10.1088/2632-2153/abba6f; data doi:10.6084/m9.figshare.12672038. MD22:
    S. Chmiela et al. 2023, doi:10.1126/sciadv.adf0873.
"""

import re
from dataclasses import dataclass
from typing import Literal

from tg80.errors import UserError

Layout = Literal["sgdml", "rmd17", "upstream"]


@dataclass(frozen=True)
class PublicMolecule:
    """One molecule of a set, and the name of its file."""

    name: str
    n_atoms: int
    file: str


@dataclass(frozen=True)
class PublicSet:
    """One public set.

    Attributes:
        id: Short name.
        title: Full name.
        layout: Which keys its files have.
        frame_fs: Time between frames of the simulation.
        frame_source: Who states it.
        address: Folder of the files on the web; of an archive, the archive itself.
        archive: Whether `address` is a tar archive of all files.
        margin_frames: Frames that the published single-task runs leave out at either end.
    """

    id: str
    title: str
    layout: Layout
    frame_fs: float
    frame_source: str
    address: str
    archive: bool
    margin_frames: int
    molecules: tuple[PublicMolecule, ...]

    def molecule(self, name: str) -> PublicMolecule:
        """The molecule of that name.

        Raises:
            UserError: The set has none.
        """
        for molecule in self.molecules:
            if molecule.name == name:
                return molecule
        known = ", ".join(molecule.name for molecule in self.molecules)
        raise UserError(f"{self.id} has no molecule {name!r}; it has {known}")


def _molecules(pattern: str, **stems: tuple[int, str] | int) -> tuple[PublicMolecule, ...]:
    made = []
    for key, value in stems.items():
        name = key.replace("_", "-")
        n_atoms, stem = value if isinstance(value, tuple) else (value, name)
        made.append(PublicMolecule(name, n_atoms, pattern.format(stem)))
    return tuple(made)


_CHMIELA_2017 = "Chmiela et al. 2017, doi:10.1126/sciadv.1603015: 500 K, resolution 0.5 fs"
_CHMIELA_2023 = "Chmiela et al. 2023, doi:10.1126/sciadv.adf0873: 400 to 500 K, resolution 1 fs"

MD17 = PublicSet(
    id="md17",
    title="MD17",
    layout="sgdml",
    frame_fs=0.5,
    frame_source=_CHMIELA_2017,
    address="http://www.quantum-machine.org/gdml/data/npz",
    archive=False,
    margin_frames=10_000,
    molecules=(
        *_molecules(
            "md17_{}.npz",
            aspirin=21, benzene=(12, "benzene2017"), ethanol=9, malonaldehyde=9, naphthalene=18,
            salicylic_acid=(16, "salicylic"), toluene=15, uracil=12,
        ),
        *_molecules("{}_dft.npz", azobenzene=24, paracetamol=20),
    ),
)  # fmt: skip

RMD17 = PublicSet(
    id="rmd17",
    title="revised MD17",
    layout="rmd17",
    frame_fs=MD17.frame_fs,
    frame_source=f"that of MD17, from which its frames were drawn ({_CHMIELA_2017})",
    address="https://figshare.com/ndownloader/files/23950376",
    archive=True,
    margin_frames=0,
    molecules=_molecules(
        "rmd17_{}.npz",
        aspirin=21, azobenzene=24, benzene=12, ethanol=9, malonaldehyde=9, naphthalene=18,
        paracetamol=20, salicylic_acid=(16, "salicylic"), toluene=15, uracil=12,
    ),
)  # fmt: skip

MD22 = PublicSet(
    id="md22",
    title="MD22",
    layout="sgdml",
    frame_fs=1.0,
    frame_source=_CHMIELA_2023,
    address="http://www.quantum-machine.org/gdml/repo/datasets",
    archive=False,
    margin_frames=0,
    molecules=_molecules(
        "md22_{}.npz",
        ac_ala3_nhme=(42, "Ac-Ala3-NHMe"), at_at=(60, "AT-AT"), at_at_cg_cg=(118, "AT-AT-CG-CG"),
        buckyball_catcher=148, dha=(56, "DHA"),
        double_walled_nanotube=(370, "double-walled_nanotube"), stachyose=87,
    ),
)  # fmt: skip

PUBLIC_SETS = {public.id: public for public in (MD17, RMD17, MD22)}


def get_public_set(set_id: str) -> PublicSet:
    """The set of that id.

    Raises:
        UserError: There is none.
    """
    if set_id not in PUBLIC_SETS:
        raise UserError(f"no public set {set_id!r}; sets are {', '.join(PUBLIC_SETS)}")
    return PUBLIC_SETS[set_id]


# Words of sets, runs (by their year) and levels of theory.
_ORIGIN = re.compile(
    r"(?<![a-z])(r?md-?(?:17|22)|revised|ws22|xxmd|iso17|3bpa|ani-?[12]\w*|qm\d+\w?|tg80|ccsd-?t?|dlpno"
    r"|mp[2-4]|b3lyp|pbe0|pm[67]|am1|dftb\w*|xtb\d?|gfn\d?|def2\w*|custom)(?![a-z0-9])"
    r"|(?<!\d)((?:19|20)\d\d)(?!\d)"
)


def contradiction(text: str, public: PublicSet) -> str | None:
    """The word in a name that says another set, run or level of theory, if any.

    `benzene2018_dft` and `ethanol_ccsd_t-train` are not of MD17.
    """
    own = {public.id, "2017"} if public is MD17 else {public.id}
    for match in _ORIGIN.finditer(_spaced(text)):
        if match[0] not in own:
            return match[0]
    return None


def recognise(stem: str, layout: Layout) -> tuple[PublicSet, PublicMolecule] | None:
    """Set and molecule of a file by its name without `.npz`, in any of the usual spellings."""
    wanted = _plain(stem)
    for public in PUBLIC_SETS.values():
        if public.layout != layout or contradiction(stem, public):
            continue
        for molecule in public.molecules:
            if wanted in (_plain(molecule.name), _plain(molecule.file.removesuffix(".npz"))):
                return public, molecule
    return None


def _spaced(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _plain(stem: str) -> str:
    """`md17_benzene2017`, `benzene_old_dft` and `benzene` are one; so are other spellings."""
    plain = re.sub(r"^r?md(17|22)-", "", _spaced(stem))
    plain = re.sub(r"(-dft|-old|-?2017)+$", "", plain)
    return {"salicylic": "salicylic-acid"}.get(plain, plain)
