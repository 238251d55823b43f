"""What a molecule is: from SMILES, its bonds, its mechanics."""
