"""ISOMER: a start mesh drawn to the normals of a bundle by continuous remeshing."""
