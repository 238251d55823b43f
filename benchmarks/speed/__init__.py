"""Side-by-side timings. The only place of the harness that may import `pipelines`."""
