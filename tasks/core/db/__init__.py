"""SQL lives here alone: one metadata, one migration tree, one repository module per aggregate."""
