"""A closer look at trained models: where they differ, and how far CLIP was moved."""
