"""How methods are found, loaded, described and begun: strategies first, which users write."""
