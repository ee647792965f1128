"""A small synthetic world: scenes, archives in the official formats, their small CLIP."""
