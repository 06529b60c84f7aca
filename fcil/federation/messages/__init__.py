"""Messages between server and clients, and reports of their failures."""
