"""Makes the dataset: from SMILES to trajectories. Imports `tg80`, never the other way round."""
