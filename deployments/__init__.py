"""What runs signalbox: the command, the embedded stack, its bootstrap."""
