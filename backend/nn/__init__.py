"""Network pieces shared by the systems: embeddings, norms, attention, transformer blocks."""
