"""Files in and out: pictures and GLB."""
