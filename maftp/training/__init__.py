"""Training: optimizer, the loop of one worker, checkpoints, and Ray Train around them."""
