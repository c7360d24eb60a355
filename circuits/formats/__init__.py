"""Circuits in files and pictures."""
