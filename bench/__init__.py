"""``python -m bench``: times every implementation of every loss, forward and backward, in one run."""
