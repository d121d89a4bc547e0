"""The door: HTTP on loopback with a token, over the job queue."""
