"""What the kit proves of a family, in groups."""
