"""The tools, by service, and the kit they are made with (`tasks.core`)."""
