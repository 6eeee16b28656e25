"""Another last layer on the same network: applied to a run without audio, and learnt from answers about it."""
