"""RefAny3D: a picture that stays true to a mesh, with its point map, and from that the picture's camera."""
