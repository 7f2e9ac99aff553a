"""A stand-in for the providers: for trying Tokenweir out, and the tests' billing oracle."""
