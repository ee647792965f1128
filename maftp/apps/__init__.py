"""Programs on top of the library: predict, the demo page, export."""
