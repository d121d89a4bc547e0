"""From a photo to the object in it, for every system that takes photos: its alpha, and the square around it."""
