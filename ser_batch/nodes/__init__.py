"""Many machines on one run: nodes work on a plan without holding the run; who holds it commits what they publish."""
