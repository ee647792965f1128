"""Losses of MAFT+: set criterion, mask-aware loss, representation compensation; tensors only."""
