"""The symbolic model's algebra, checked modulo primes."""
