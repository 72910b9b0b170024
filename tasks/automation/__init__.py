"""Programs on this machine and on others."""
