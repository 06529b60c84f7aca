"""How the server makes synthetic samples: jobs, in this process or on workers."""
