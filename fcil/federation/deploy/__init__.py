"""A federation of processes of their own: SuperLink, SuperNodes, credentials."""
