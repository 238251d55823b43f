"""Dask workers: started here, by a batch queue, or by others."""
