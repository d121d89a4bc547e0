"""Kiss3DGen: a sentence, a photo or a mesh becomes a bundle of views, the bundle becomes a mesh."""
