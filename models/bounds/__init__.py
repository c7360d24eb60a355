"""Certified bounds of a network's outputs over attack balls: interval bound propagation and CROWN, on the CPU or a GPU."""
