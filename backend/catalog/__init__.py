"""What can be installed beside the code: the published weights and optional tools, and how they get here."""
