"""Sound bounds over boxes of evidence: exact where proved, with a gap and a witness elsewhere."""
