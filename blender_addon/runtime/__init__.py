"""What runs beside Blender's main loop: the backend process, the connection to it, the jobs."""
