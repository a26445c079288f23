"""vflowopt for DeepSeek-VL: what a package of its own needs to add a family."""
