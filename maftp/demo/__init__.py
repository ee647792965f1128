"""A page on this machine: drop a picture, type words, see the segmentation. Works offline."""
