"""Anything a person brings → typed rows."""
