"""The callbacks of a rank, one file each."""
