"""Image files: archives, folders, layouts, and their decoding to arrays."""
