"""Tools that put packets on the wire or read them."""
