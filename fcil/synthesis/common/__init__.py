"""What several synthesizers share: the seam, pools, losses, layers, sizes."""
