"""Restricted Kohn-Sham: self-consistency, Coulomb, exchange-correlation."""
