"""Operators behind one function each, whatever computes them."""

from maftp.ops.ms_deform_attn import ms_deform_attn

__all__ = ["ms_deform_attn"]
