"""Pure functions from an index and a lesion to frozen results."""
