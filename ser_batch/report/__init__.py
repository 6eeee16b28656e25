"""Reports, read from Parquet only."""
