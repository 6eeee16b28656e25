"""What people say of a run: their answers, the sample that they are asked about, and what follows for its labels."""
