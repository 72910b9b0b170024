"""Scans: many hosts at once."""
