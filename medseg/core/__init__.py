"""The ground floor: where voxels are, what they hold, what can go wrong, how files are written."""
