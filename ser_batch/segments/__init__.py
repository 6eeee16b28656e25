"""Segments: who speaks when, with which words, as files beside the recordings and tables of the whole archive say."""
