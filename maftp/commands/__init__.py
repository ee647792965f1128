"""The commands of `maftp`, one module a topic; each has `add(commands)`."""
