"""Which compounds a SMILES stands for: open stereo, cages, CXSMILES."""

import pytest
from rdkit import Chem

from tg80.chemistry.molecule import molecule_from_smiles, stereoisomers_of_smiles
from tg80.chemistry.smiles import same_compound
from tg80.errors import UserError

ONE_ISOMER = {
    "bicyclopentane": "C1C2CC1C2",
    "methyl-bicyclopentane": "CC12CC(C1)C2",
    "bicyclopentane acid": "OC(=O)C12CC(C1)C2",
    "bis-bicyclopentane": "C1C2CC1(C2)C12CC(C1)C2",
    "fluoro-bicyclopentane": "FC1C2CC1C2",
    "propellane": "C1C23CC12C3",
    "bicyclobutane": "C1C2C1C2",
    "tetrahedrane": "C12C3C1C23",
    "methyltetrahedrane": "CC12C3C1C23",
    "dimethyltetrahedrane": "CC12C3(C)C1C23",
    "prismane": "C12C3C1C4C2C34",
    "benzvalene": "C1=CC2C3C2C13",
    "cubane": "C12C3C4C1C5C4C3C25",
    "difluorocubane": "FC12C3C4C1C5(F)C4C3C25",
    "basketane": "C1CC2C3C4C2C5C4C3C15",
    "norbornane": "C1CC2CCC1C2",
    "norbornadiene": "C1C2C=CC1C=C2",
    "quinuclidine": "C1CN2CCC1CC2",
    "dabco": "C1CN2CCN1CC2",
    "adamantane": "C1C2CC3CC1CC(C2)C3",
    "1-methyladamantane": "CC12CC3CC(CC(C3)C1)C2",
    "2-adamantanol": "OC1C2CC3CC1CC(C2)C3",
    "1-chloro-3-fluoroadamantane": "FC12CC3CC(C1)CC(C3)(Cl)C2",
    "hexamine": "C1N2CN3CN1CN(C2)C3",
    "diamantane": "C1C2CC3C4CC5CC(C14)C(C2)C3C5",
    "bornane": "CC1(C)C2CCC1(C)CC2",
    "cineole": "CC1(C)OC2(C)CCC1CC2",
    "nortricyclane": "C1C2CC3C1C3C2",
    "cage with an allene": "C=C=CC12CC(C1)C2",
}
OPEN = {  # how many isomers, mirror images aside
    "camphor": ("CC1(C)C2CCC1(C)C(=O)C2", 1),
    "pinene": ("CC1=CCC2CC1C2(C)C", 1),
    "chiral adamantane": ("FC12CC3CC(Br)(C1)CC(Cl)(C3)C2", 1),
    "twistane": ("C1CC2CC3CCC2CC13", 1),
    "norbornanol": ("OC1CC2CCC1C2", 2),
    "decalin": ("C1CCC2CCCCC2C1", 2),
    "hydrindane": ("C1CCC2CCCC2C1", 2),
    "trans-fused small rings": ("C1CC2CCC2C1", 2),
    "ladderane": ("C1CC2C1C1CCC21", 2),
    "cage with a stereocentre": ("FC(O)C12CC(C1)C2", 1),
    "1,3-dimethylcyclobutane": ("CC1CC(C)C1", 2),
    "alanine": ("CC(N)C(=O)O", 1),
    "tartaric acid": ("OC(=O)C(O)C(O)C(=O)O", 2),
    "hexadiene": ("CC=CC=CC", 3),
    "imine": ("CC=N", 2),
    "oxide": ("CS(=O)CC", 1),
}


@pytest.mark.parametrize("smiles", ONE_ISOMER.values(), ids=ONE_ISOMER.keys())
def test_a_cage_that_can_be_built_in_one_way_needs_no_stereo(smiles):
    molecule = molecule_from_smiles(smiles)
    assert "@" not in molecule.smiles
    assert stereoisomers_of_smiles(smiles, "x", only_first=True)[0].smiles == molecule.smiles
    # The run's folder stores this SMILES, which must be as good when it is read again.
    assert molecule_from_smiles(molecule.smiles) == molecule


@pytest.mark.parametrize(("smiles", "n_isomers"), OPEN.values(), ids=OPEN.keys())
def test_open_stereo_is_refused_enumerated_or_settled(smiles, n_isomers):
    with pytest.raises(UserError, match=r"unspecified stereo.*--stereo"):
        molecule_from_smiles(smiles)
    isomers = stereoisomers_of_smiles(smiles, "x")
    names = ["x"] if n_isomers == 1 else [f"x-s{k}" for k in range(1, n_isomers + 1)]
    assert [isomer.name for isomer in isomers] == names
    assert len({isomer.inchikey for isomer in isomers}) == n_isomers
    assert {isomer.inchikey_block for isomer in isomers} == {isomers[0].inchikey_block}
    (first,) = stereoisomers_of_smiles(smiles, "x", only_first=True)
    assert first.name == "x" and first.inchikey_block == isomers[0].inchikey_block
    # Another spelling gives the same isomers in the same order.
    spelling = Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(smiles), 1, randomSeed=7)[0]
    assert stereoisomers_of_smiles(spelling, "x") == isomers


def test_double_bonds_are_trans_first_and_mirror_images_come_once():
    isomers = stereoisomers_of_smiles("CC=CCl", "x")
    assert [isomer.smiles for isomer in isomers] == ["C/C=C/Cl", "C/C=C\\Cl"]
    left, right = (molecule_from_smiles(s) for s in ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"))
    (found,) = stereoisomers_of_smiles("CC(N)C(=O)O")
    assert found.inchikey in (left.inchikey, right.inchikey)
    # A centre that is given keeps its setting, and then both of the other are wanted.
    assert len(stereoisomers_of_smiles("C[C@H](F)C(O)Cl", "x")) == 2


def test_too_many_isomers_are_refused_but_one_of_them_can_be_had():
    smiles = "C" + "C(O)" * 10 + "C"
    with pytest.raises(UserError, match=r"10 unspecified stereo elements.*--stereo first"):
        stereoisomers_of_smiles(smiles, "x")
    (first,) = stereoisomers_of_smiles(smiles, "x", only_first=True)
    assert first.smiles.count("@") >= 8


def test_a_cage_that_cannot_be_built_says_so():
    with pytest.raises(UserError, match="no 3D structure"):
        molecule_from_smiles("C12C3C4C5C1C5C3C24")  # cuneane, which breaks RDKit's embedding


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("CS(C)=O", "C[S+](C)[O-]", True),
        ("NC(=[NH2+])C", "[NH2+]=C(C)N", True),
        ("O=c1cc[nH]c(=O)[nH]1", "Oc1ccnc(O)n1", False),
        ("NCC(=O)O", "[NH3+]CC(=O)[O-]", False),
        ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", False),
    ],
)
def test_ways_of_drawing_are_one_compound_and_tautomers_are_two(one, other, same):
    assert same_compound(one, other) is same


# CXSMILES


@pytest.mark.parametrize(
    ("text", "smiles"),
    [
        ("CCO |(0,0,;1.2,0.1,;2,-3e-2,)|", "CCO"),
        ("CCO |(0,0,0;1.2,0.1,0.3;2,0,0.1),lp:2:2|", "CCO"),
        ("CCO |$_AV:first;;$|", "CCO"),
        ("CCO |atomProp:0.mark.a:2.mark.b|", "CCO"),
        ("CCO ||", "CCO"),
        ("C[C@H](F)Cl |a:1|", "C[C@H](F)Cl"),
        ("C1=CCCCC1 |c:0|", "C1=CCCCC1"),
        # A racemate of one meso compound is that compound.
        ("C[C@H](F)[C@@H](C)F |&1:1,3|", "C[C@H](F)[C@@H](C)F"),
        ("CCO |o1:1|", "CCO"),
    ],
)
def test_blocks_that_change_nothing_are_read(text, smiles):
    assert molecule_from_smiles(text, "x") == molecule_from_smiles(smiles, "x")


@pytest.mark.parametrize(
    ("text", "isomers"),
    [
        ("C[C@H](F)Cl |o1:1|", ["C[C@H](F)Cl"]),
        ("C[C@H](F)Cl |&1:1|", ["C[C@H](F)Cl"]),
        ("C[C@H](F)Cl |r|", ["C[C@H](F)Cl"]),
        ("C[C@H](F)Cl |w:1.0|", ["C[C@H](F)Cl"]),
        ("C/C=C/Cl |w:1.0|", ["C/C=C/Cl", "C/C=C\\Cl"]),
        # Relative to each other the two centres are known: a racemate, not four isomers.
        ("C[C@H](F)[C@@H](Cl)Br |(0,0;1,0;1,1;2,0;3,0;2,1),&1:1,3|", ["C[C@H](F)[C@@H](Cl)Br"]),
        ("C[C@H](F)[C@@H](Cl)Br |&1:1,&2:3|", ["C[C@H](F)[C@@H](Cl)Br", "C[C@@H](F)[C@@H](Cl)Br"]),
    ],
)
def test_stereo_that_a_block_leaves_open_is_open(text, isomers):
    with pytest.raises(UserError, match=r"unspecified stereo.*--stereo"):
        molecule_from_smiles(text)
    found = [isomer.inchikey for isomer in stereoisomers_of_smiles(text)]
    mirrored = [
        smiles.replace("@@", "!").replace("@", "@@").replace("!", "@") for smiles in isomers
    ]
    wanted = [
        {molecule_from_smiles(smiles).inchikey for smiles in pair}
        for pair in zip(isomers, mirrored, strict=True)
    ]
    assert len(found) == len(wanted)
    assert all(any(key in pair for key in found) for pair in wanted)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CC |^1:0|", "is not understood"),
        ("CC |^1:0,1|", "is not understood"),
        ("CC |C:0.0|", "'C' is not understood"),
        ("CC |H:0.0|", "'H' is not understood"),
        ("CC |m:0:1.0|", "'m' is not understood"),
        ("CC |Sg:n:0::ht|", "'Sg' is not understood"),
        ("CC |LN:0:1.3|", "LN|parsed"),
        ("CC |rb:0:2|", "'rb' is not understood"),
        ("CC |Z:1|", "'Z' is not understood"),
        ("CC |$R1;$|", "labels"),
        ("*C |$_R1;$|", "labels"),
        ("CC.CC |f:0.1|", "2 fragments"),
        ("CC |foo:1|", "foo|parsed"),
        ("CC |", "no CXSMILES block"),
        ("CC |a:0", "no CXSMILES block"),
        ("CC ethane", "no CXSMILES block"),
        ("CCO>>CC=O", "parsed"),
        ("C~C", "no definite order"),
        ("InChI=1S/CH4/h1H4", "parsed"),
    ],
)
def test_what_is_not_understood_is_refused(text, reason):
    with pytest.raises(UserError, match=reason) as caught:
        molecule_from_smiles(text)
    assert "\n" not in str(caught.value)
