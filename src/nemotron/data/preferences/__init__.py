"""Preference rows of many formats to one, and back: see `find_format`."""
