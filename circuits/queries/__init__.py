"""Questions to a circuit: worlds, counts, information."""
