"""The built-in extractors: thin plugins that turn the analyses of `ser_batch.dsp` into columns and tensors."""
