"""The published start mesh: a large reconstruction model from four views to a coloured mesh (spec section 7)."""
