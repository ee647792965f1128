"""Your own images and masks: checked, linked into the layout, entered in a catalog of their own."""
