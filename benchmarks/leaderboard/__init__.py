"""Records to tables and a page."""
