"""CUPID: a photo to a mesh and the camera that took the photo (arXiv 2510.20776)."""
