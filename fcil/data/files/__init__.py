"""Image files: archives, folders, layouts, and what becomes of them as arrays."""
