"""One training loop for every system: resumable, averaged, logged. What is trained lives with each system."""
