"""Shipped weights and their cards; find them with `ser_batch.resources.model_path`."""
