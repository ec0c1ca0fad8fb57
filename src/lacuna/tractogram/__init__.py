"""The index of a tractogram: built once, then asked which streamlines a lesion cuts."""
