"""From constraints to circuits: disjoint terms, variable elimination, SDDs, d4."""
