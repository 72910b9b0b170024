"""The inventory: assets, their identity, and what changed."""
