"""What the add-on and the backend say to each other. Standard library and numpy only: both processes import it."""

PROTOCOL = 1
