"""Scores of a model on a benchmark: semantic mIoU in both protocols, and panoptic quality."""
