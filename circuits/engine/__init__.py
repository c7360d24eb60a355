"""Evaluation of circuits in batches."""
