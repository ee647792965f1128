"""Raw label maps to training ids: one module per source, pure functions of arrays and drivers."""
