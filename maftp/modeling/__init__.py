"""The network: CLIP, segmentation head, content-dependent transfer, and what is read off them."""
