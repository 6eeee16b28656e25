"""Readers of labelled corpora, one file each, and how a download is sorted into folders."""
