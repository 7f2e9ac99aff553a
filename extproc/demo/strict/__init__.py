"""What the real APIs refuse: the shape of a request and the rules between its parts, by dialect."""
