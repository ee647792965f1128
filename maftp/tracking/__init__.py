"""Tracking: what a run was made of and what it measured."""
