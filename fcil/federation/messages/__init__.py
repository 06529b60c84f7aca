"""What server and clients say to each other, and who is told when it fails."""
