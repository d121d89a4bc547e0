"""Maquette's backend: a local process that makes 3D assets. It never imports bpy."""

__version__ = "0.1.0"
