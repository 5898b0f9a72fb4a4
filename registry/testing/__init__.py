"""Fakes and contracts that we ship: for our own tests and for plugin authors."""
