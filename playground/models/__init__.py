"""Which model, where it comes from, how it is loaded, switched and decoded."""
