"""How the claims are measured; not part of the installed package."""
