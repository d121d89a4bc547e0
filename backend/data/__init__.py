"""Data preparation: Blender renders GLB files, shards hold what training needs."""
