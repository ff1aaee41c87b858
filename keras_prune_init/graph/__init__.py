"""How the layers of a model are connected."""
