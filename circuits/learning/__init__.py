"""Learning rule weights and circuit parameters, and losses from circuits."""
