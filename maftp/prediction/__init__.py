"""Segment people's own pictures with words of their own, and write what was found."""
