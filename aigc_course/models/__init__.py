"""Models that more than one lesson uses, written out from scratch."""
