"""A run is a folder; a queue of them; what came from what."""
