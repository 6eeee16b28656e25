"""Where files lie: on a disk of this machine, or as objects in a bucket; one interface to both."""
