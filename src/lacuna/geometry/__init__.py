"""Where things are: voxel grids, template spaces, streamlines. Arrays only."""
