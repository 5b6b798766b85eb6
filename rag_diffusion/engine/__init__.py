"""The same work by workers on several machines: an engine takes units of it, and gives their results in order."""
