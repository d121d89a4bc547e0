"""Drawing meshes without a GPU: a z-buffer and the pictures made from it."""
