"""vflowopt for Mistral 3: what a package of its own needs to add a family."""
