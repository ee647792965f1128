"""From archives to batches: catalog, download, conversion, vocabularies, mappers and loaders."""
