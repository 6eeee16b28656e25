"""Shipped configurations; find them with `ser_batch.resources.config_path`."""
