"""What distillers share: the seam, and which of them learn from which samples."""
