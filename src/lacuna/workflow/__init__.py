"""Where files, cache and mathematics meet."""
