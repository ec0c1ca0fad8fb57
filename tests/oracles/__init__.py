"""Slow and obvious versions of what the kernels compute."""
