"""How plans become finished runs: rehearsed, one after another or several at once, watched, logged, forecast."""
