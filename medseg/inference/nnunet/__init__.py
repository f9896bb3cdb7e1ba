"""Models that nnU-Net v2 trained, run without it (Isensee et al. 2021): its plans, labels and weights."""
