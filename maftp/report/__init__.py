"""Tables and figures, made from the files of finished runs."""
