"""Corpora, data sets, training and evaluation."""
