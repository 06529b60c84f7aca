"""Parts shared by several synthesizers: the seam, pools, losses, layers, resolutions."""
