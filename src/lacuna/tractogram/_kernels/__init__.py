"""Compiled loops over streamlines and voxels: numpy and numba only, no files, no threads.

Every kernel releases the interpreter lock, so that a pool of threads runs them side by side.
"""
