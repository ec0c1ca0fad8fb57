"""Where files live, whose they are, and on what they lie; the standard library only."""
