"""Between Blender's data and arrays. Uses data access only, never operators."""
