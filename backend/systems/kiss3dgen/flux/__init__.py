"""Stage I of Kiss3DGen: Flux and its companions, by configuration, from text, photo or bundle to a bundle image."""
