"""A network to look at: a lab in network namespaces, and the small office `signalbox demo network` builds in it."""
