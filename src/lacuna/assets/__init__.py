"""Data that Lacuna brings or fetches: what they are, whose, and on which terms."""
