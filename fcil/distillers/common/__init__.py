"""Parts shared by distillers: the seam, and checks of distiller and samples."""
